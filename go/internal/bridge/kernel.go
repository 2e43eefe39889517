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
func Kernel(c HostConn, early ...byte) Far {
	raw, err := c.SyscallConn()
	if err != nil { // it is closed
		raw = closedConn{}
	}
	return &kernelConn{c, raw, early}
}

type kernelConn struct {
	HostConn
	raw   syscall.RawConn
	early []byte
}

type closedConn struct{}

func (closedConn) Control(func(uintptr)) error    { return net.ErrClosed }
func (closedConn) Read(func(uintptr) bool) error  { return net.ErrClosed }
func (closedConn) Write(func(uintptr) bool) error { return net.ErrClosed }

func (c *kernelConn) Read(b []byte) (n int, err error) {
	if len(c.early) > 0 {
		n := copy(b, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	goneErr := c.raw.Read(func(fd uintptr) bool {
		n, err = retry(func() (int, error) { return unix.Read(int(fd), b) })
		return true
	})
	switch {
	case goneErr != nil:
		return 0, goneErr
	case err == unix.EAGAIN:
		return 0, ErrNothing
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

func (c *kernelConn) Await(f func()) {
	Go(func() {
		c.raw.Read(func(fd uintptr) bool { return pending(int(fd), unix.POLLIN) })
		f()
	})
}

// Delivered: the kernel delivers after close(2) by itself.
func (c *kernelConn) Delivered() bool { return true }

func (c *kernelConn) Abort() {
	if t, ok := c.HostConn.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}
