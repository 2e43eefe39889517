package bridge

import (
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// Kernel carries a TCP connection of this host.
func Kernel(c *net.TCPConn) Far { return kernelConn{c} }

type kernelConn struct{ *net.TCPConn }

func (c kernelConn) AwaitReadable() error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var peekErr error
	waitErr := raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, peekErr = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return peekErr != unix.EAGAIN && peekErr != unix.EINTR
	})
	switch {
	case waitErr != nil:
		return waitErr
	case peekErr != nil:
		return peekErr
	case n == 0:
		return io.EOF
	}
	return nil
}

// Delivered: the kernel delivers after close(2) by itself.
func (c kernelConn) Delivered() bool { return true }

func (c kernelConn) Abort() {
	c.SetLinger(0)
	c.Close()
}
