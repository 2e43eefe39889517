package proxied

import (
	"encoding/binary"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"tailnet/internal/fault"
)

// The structures of linux/unix_diag.h: unix_diag_req and unix_diag_msg.
const (
	unixRequestSize = 24 // family, protocol, padding, states (4), inode (4), show (4), cookie (8)
	unixMessageSize = 16 // family, type, state, padding, inode (4), cookie (8)

	tcpListen = 10 // TCP_LISTEN, of unix sockets too

	showVFS = 2 // UDIAG_SHOW_VFS
	vfsAttr = 1 // UNIX_DIAG_VFS
)

// SameNetwork reports whether the unix socket at path is listened on in this network
// namespace: the file may be shared with a container, and 127.0.0.1 is not. (Both ends of
// a connection count as where connect(2) was called, so they tell nothing.) Where Linux
// does not say, it is taken to be so.
func SameNetwork(path string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return false, fault.For(fault.NotRunning, err, "the socket %s", path)
	}
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return true, nil
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(answerLimit)); err != nil {
		return true, nil
	}
	request := make([]byte, unixRequestSize)
	request[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(request[4:], 1<<tcpListen)
	binary.NativeEndian.PutUint32(request[12:], showVFS)
	listeners, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump},
		Data:   request,
	})
	if err != nil {
		return true, nil
	}
	for _, m := range listeners {
		if len(m.Data) < unixMessageSize {
			continue
		}
		attrs, err := netlink.NewAttributeDecoder(m.Data[unixMessageSize:])
		if err != nil {
			continue
		}
		for attrs.Next() {
			// struct unix_diag_vfs: the file's inode, and its device in the kernel's own spelling.
			b := attrs.Bytes()
			if attrs.Type() == vfsAttr && len(b) >= 4 && binary.NativeEndian.Uint32(b) == uint32(st.Ino) {
				return true, nil
			}
		}
	}
	return false, nil
}
