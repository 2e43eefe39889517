package sidecar

import (
	"syscall"
)

// childAttr: the signal is for where the pipe cannot tell, because a forked child of the
// program still holds its end.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
