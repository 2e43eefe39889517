package proxied

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
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
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if err != nil || len(fields) < 20 {
		return true, ""
	}
	state, began := fields[0], fields[19]
	flags, err := strconv.ParseUint(fields[6], 10, 32)
	return err != nil || flags&exiting != 0 || state == "Z" || state == "X", began
}
