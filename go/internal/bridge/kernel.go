package bridge

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// HostConn is a connection of this host's kernel: TCP, or a unix one.
type HostConn interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// Kernel carries a connection of this host, of which early was read already.
func Kernel(c HostConn, early ...byte) Far { return &kernelConn{c, early} }

type kernelConn struct {
	HostConn
	early []byte
}

func (c *kernelConn) Read(b []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(b, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.HostConn.Read(b)
}

func (c *kernelConn) AwaitReadable() error {
	if len(c.early) > 0 {
		return nil
	}
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
func (c *kernelConn) Delivered() bool { return true }

func (c *kernelConn) Abort() {
	if t, ok := c.HostConn.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}
