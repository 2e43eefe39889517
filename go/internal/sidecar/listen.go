package sidecar

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"tailnet/internal/bridge"
	"tailnet/internal/config"
	"tailnet/internal/fault"
	"tailnet/internal/session"
)

/*
With a TUN, the daemon's node is a network interface: its addresses can be listened on, and
its peers dialed, with sockets of the kernel.
*/

// Listen makes connections to addr arrive at a.
func (s *Backend) Listen(ctx context.Context, addr config.Address, a *bridge.Acceptor) (uint16, func(), error) {
	l, err := s.joined()
	if err != nil {
		return 0, nil, err
	}
	if err := l.WhyNot(ctx); err != nil {
		return 0, nil, err
	}
	on, err := l.ListenOn(addr)
	if err != nil {
		return 0, nil, err
	}
	if l.tun {
		return listenKernel(addr, on, a)
	}
	return l.listenServed(ctx, addr, on, a)
}

// portTries: another program may have one of two addresses' ports.
const portTries = 16

func listenKernel(addr config.Address, on []netip.Addr, a *bridge.Acceptor) (uint16, func(), error) {
	a.Options = &bridge.KernelOptions
	for try := 1; ; try++ {
		lns, err := listenAll(on, addr.Port)
		if err == nil {
			for _, ln := range lns {
				bridge.Go(func() { acceptKernel(ln, a) })
			}
			return portOf(lns[0]), func() { closeAll(lns) }, nil
		}
		if addr.Port == 0 && errors.Is(err, unix.EADDRINUSE) && try < portTries {
			continue
		}
		return 0, nil, listenError(addr, err)
	}
}

func listenAll(on []netip.Addr, number uint16) (lns []*net.TCPListener, err error) {
	for _, ip := range on {
		ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, number)))
		if err != nil {
			closeAll(lns)
			return nil, err
		}
		lns, number = append(lns, ln), portOf(ln)
	}
	return lns, nil
}

func portOf(ln *net.TCPListener) uint16 { return ln.Addr().(*net.TCPAddr).AddrPort().Port() }

func closeAll(lns []*net.TCPListener) {
	for _, ln := range lns {
		ln.Close()
	}
}

func listenError(addr config.Address, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fault.New(fault.AddressInUse, "cannot listen on port %d: another program of this machine has it; give another port", addr.Port)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fault.New(fault.AddressNotAvailable, "cannot listen on %v: this process does not see the interface of tailscaled, "+
			"which runs in another network namespace", addr)
	case errors.Is(err, unix.EACCES):
		return fault.New(fault.AddressNotAvailable, "cannot listen on port %d: below %d only root may, or who has CAP_NET_BIND_SERVICE",
			addr.Port, 1024)
	}
	return fault.For(fault.Internal, err, "cannot listen on %v", addr)
}

func acceptKernel(ln *net.TCPListener, a *bridge.Acceptor) {
	accepting(ln, func(c *net.TCPConn) {
		if a.Full() {
			reset(c)
			return
		}
		bridge.Go(func() { a.HandOver(bridge.Kernel(c), session.AddrPort(c.RemoteAddr())) })
	})
}

// accepting calls f with every connection until ln is closed.
func accepting(ln *net.TCPListener, f func(*net.TCPConn)) {
	for {
		c, err := ln.AcceptTCP()
		if err == nil {
			f(c)
		} else if errors.Is(err, net.ErrClosed) {
			return
		} else { // out of descriptors: it passes, and must not spin meanwhile
			time.Sleep(10 * time.Millisecond)
		}
	}
}

func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}
