package proxied

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"tailnet/internal/fault"
)

func peerUID(fd int) (uint32, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	if cred.Uid == ^uint32(0) { // as of a socket that is not connected
		return 0, unix.ENOTCONN
	}
	return cred.Uid, nil
}

// known refuses the uid that stands for all that have no number here. In a container with
// a user namespace of its own but the network of the host, the host's root and any user of
// the host would be the same.
func known(uid uint32) (uint32, error) {
	stranger, err := strangers()
	if err != nil {
		return 0, fault.For(fault.Unsupported, err, "cannot tell whom uid %d stands for", uid)
	}
	if int64(uid) == stranger {
		return 0, fault.New(fault.Unsupported, "uid %d stands for every user outside of this user namespace", uid)
	}
	return uid, nil
}

// strangers returns the uid of the users that have none in this user namespace
// (user_namespaces(7)), or -1 where it has every user.
var strangers = sync.OnceValues(func() (int64, error) {
	m, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return 0, err
	}
	if f := strings.Fields(string(m)); len(f) == 3 && f[2] == fmt.Sprint(^uint32(0)) {
		return -1, nil
	}
	b, err := os.ReadFile("/proc/sys/kernel/overflowuid")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
})
