package proxied

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"tailnet/internal/fault"
)

// A Process is another one of this host.
type Process struct {
	pid   int32
	began string
}

// PeerProcess returns the process that listens at the other end of c, or one that is never
// seen to end, where this one cannot see it: in another pid namespace, or without /proc.
func PeerProcess(c *net.UnixConn) (p Process) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Process{}
	}
	raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			p.pid = cred.Pid
		}
	})
	ending, began := p.look()
	if ending {
		return Process{}
	}
	p.began = began
	return p
}

// Ending reports whether the process has ended or is about to: it is known before any of its
// descriptors is closed.
func (p Process) Ending() bool {
	if p.began == "" {
		return false
	}
	ending, began := p.look()
	return ending || began != p.began // another one has its number
}

// exiting is PF_EXITING (linux/sched.h), which do_exit sets first. What a process has open is
// closed by the last of its threads.
const exiting = 0x4

func (p Process) look() (ending bool, began string) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/stat", p.pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil { // without a descriptor nothing is known
		return !fault.Lacks(err), p.began
	}
	defer unix.Close(fd)
	line := make([]byte, 1024) // by hand, as this is asked at every end of a connection
	n, err := unix.Read(fd, line)
	if err != nil {
		return true, ""
	}
	// The name, in parentheses, may hold anything.
	text := string(line[:n])
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return true, ""
	}
	state, began := fields[0], fields[19]
	flags, err := strconv.ParseUint(fields[6], 10, 32)
	return err != nil || flags&exiting != 0 || state == "Z" || state == "X", began
}
