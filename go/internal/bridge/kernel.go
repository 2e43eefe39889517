package bridge

import (
	"io"
	"net"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// HostConn is a connection of this host's kernel: TCP, or a unix one.
type HostConn interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// Kernel carries a connection of this host.
func Kernel(c HostConn) Far { return newKernelConn(c) }

// Through carries a connection to a daemon that pumps it to the peer, and of which early was
// read already. A daemon that dies ends it in order, and a transfer that was cut off would
// look complete; gone tells.
func Through(c HostConn, gone func() bool, early ...byte) Far {
	k := newKernelConn(c)
	k.gone, k.early = gone, early
	return k
}

type kernelConn struct {
	HostConn
	raw    syscall.RawConn
	gone   func() bool // nil: there is no daemon between
	early  []byte
	copies atomic.Bool // splice(2) cannot carry it
}

func newKernelConn(c HostConn) *kernelConn {
	raw, err := c.SyscallConn()
	if err != nil { // it is closed
		raw = closedConn{}
	}
	return &kernelConn{HostConn: c, raw: raw}
}

type closedConn struct{}

func (closedConn) Control(func(uintptr)) error    { return net.ErrClosed }
func (closedConn) Read(func(uintptr) bool) error  { return net.ErrClosed }
func (closedConn) Write(func(uintptr) bool) error { return net.ErrClosed }

func (c *kernelConn) Read(b []byte) (int, error) {
	return c.take(func(fd int) (int, error) {
		return retry(func() (int, error) { return unix.Read(fd, b) })
	}, func(early []byte) int { return copy(b, early) })
}

// take takes what there is: from the descriptor, or a copy of what was read early.
func (c *kernelConn) take(from func(fd int) (int, error), copied func(early []byte) int) (n int, err error) {
	if len(c.early) > 0 {
		n := copied(c.early)
		c.early = c.early[n:]
		return n, nil
	}
	goneErr := c.raw.Read(func(fd uintptr) bool {
		n, err = from(int(fd))
		return true
	})
	switch {
	case goneErr != nil: // we have closed it, and who was cut off by that has been told
		return 0, io.EOF
	case err == unix.EAGAIN:
		return 0, ErrNothing
	case err != nil:
		return 0, err
	case n == 0 && c.gone != nil && c.gone():
		return 0, unix.ECONNRESET
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Ends: a daemon without a TUN drops both directions when one ends, of connections that it
// forwards (forwardTCPWithProxyProtocol) and of those that it dials (serveDial).
func (c *kernelConn) Ends() Ends {
	if c.gone != nil {
		return AsOne
	}
	return EachWay
}

func (c *kernelConn) Await(f func()) {
	Go(func() {
		c.raw.Read(func(fd uintptr) bool { return pending(int(fd), unix.POLLIN) })
		f()
	})
}

// Widen: the kernel does that by itself.
func (c *kernelConn) Widen(int) {}

// KernelOptions are what Go gives a connection of the kernel (package net).
var KernelOptions = Options{KeepAlive: 1, KeepIdle: 15, KeepInterval: 15, KeepCount: 9}

func (c *kernelConn) Options() *Options {
	if c.gone != nil { // the connection to the peer is the daemon's
		return nil
	}
	return &KernelOptions
}

func (c *kernelConn) SetOption(option Option, value int32) {
	if name, ok := optionNames[option]; ok && c.gone == nil {
		c.raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), name.level, name.option, int(value)) })
	}
}

// optionName is what the kernel calls an option.
type optionName struct{ level, option int }

// holds reports whether there is something to read.
func (c *kernelConn) holds() (some bool) {
	c.raw.Control(func(fd uintptr) {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		some = err == nil && n > 0
	})
	return some
}

// Delivered: the kernel delivers after close(2) by itself, but resets where there is
// something left to read. A daemon would then drop what it has from us; it has passed that on
// when it ends its side.
func (c *kernelConn) Delivered() (delivered bool) {
	if c.gone == nil {
		return true
	}
	err := c.raw.Control(func(fd uintptr) {
		delivered = !pending(int(fd), unix.POLLIN) || pending(int(fd), hangUp)
	})
	return delivered || err != nil
}

func (c *kernelConn) Abort() {
	if t, ok := c.HostConn.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}
