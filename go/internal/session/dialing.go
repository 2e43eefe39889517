package session

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"

	"tailnet/internal/bridge"
	"tailnet/internal/config"
	"tailnet/internal/fault"
)

// DialKernel dials as any program of this host.
func DialKernel(ctx context.Context, life *Session, addr config.Address, to string) (*bridge.Dialed, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", to)
	if err != nil {
		return nil, life.DialError(ctx, addr, err)
	}
	return &bridge.Dialed{Local: AddrPort(c.LocalAddr()), Remote: AddrPort(c.RemoteAddr()), Far: bridge.Kernel(c.(*net.TCPConn))}, nil
}

// NoRoute says why an address that no peer has or routes to cannot be dialed.
func (s *Session) NoRoute(ctx context.Context, addr config.Address, ip netip.Addr) error {
	if err := s.host.WhyNot(ctx); err != nil {
		return err
	}
	f := fault.New(fault.Unreachable, "cannot dial %v: %v is not on the tailnet, and no peer routes to it; "+
		"allow_host_network=True would dial it over this host's network", addr, ip)
	f.Errno = int(syscall.EHOSTUNREACH)
	return f
}

// The errors of gonet carry gVisor's text and no errno; the texts are taken from the
// values themselves, so that an upgrade cannot make them drift.
var dialErrnos = map[string]struct {
	code  fault.Code
	errno syscall.Errno
}{
	(&tcpip.ErrConnectionRefused{}).String():  {fault.Refused, syscall.ECONNREFUSED},
	(&tcpip.ErrConnectionReset{}).String():    {fault.Refused, syscall.ECONNRESET},
	(&tcpip.ErrConnectionAborted{}).String():  {fault.Dial, syscall.ECONNABORTED},
	(&tcpip.ErrHostUnreachable{}).String():    {fault.Unreachable, syscall.EHOSTUNREACH},
	(&tcpip.ErrNetworkUnreachable{}).String(): {fault.Unreachable, syscall.ENETUNREACH},
	(&tcpip.ErrHostDown{}).String():           {fault.Unreachable, syscall.EHOSTDOWN},
	(&tcpip.ErrTimeout{}).String():            {fault.Unreachable, syscall.ETIMEDOUT},
	(&tcpip.ErrBadLocalAddress{}).String():    {fault.Dial, syscall.EADDRNOTAVAIL},
	(&tcpip.ErrNoPortAvailable{}).String():    {fault.Dial, syscall.EADDRNOTAVAIL},
	(&tcpip.ErrNoBufferSpace{}).String():      {fault.Dial, syscall.ENOBUFS},
}

// DialError gives the error of a dial its code, its errno and what can be done about it.
func (s *Session) DialError(ctx context.Context, addr config.Address, err error) error {
	var f *fault.Error
	if errors.As(err, &f) && f.Code == fault.Name { // with allow_host_network the host is asked next
		f.Message += "; allow_host_network=True would dial it over this host's network"
	}
	if f != nil || ctx.Err() != nil {
		return err
	}
	if err := s.host.WhyNot(ctx); err != nil {
		return err
	}
	if errors.Is(err, context.Canceled) { // by whileRunning
		f = fault.New(fault.Dial, "cannot dial %v: the node did not run for a moment meanwhile, and runs again; dial again", addr)
		f.Errno = int(syscall.ECONNABORTED)
		return f
	}
	cause := err
	var op *net.OpError
	if errors.As(err, &op) {
		cause = op.Err
	}
	if fault.Lacks(err) {
		return fault.For(fault.Dial, cause, "cannot dial %v", addr)
	}
	var name *net.DNSError
	if errors.As(err, &name) { // of the host's resolver
		return fault.New(fault.Name, "neither the tailnet nor this host's resolver has an address for %q (%v); "+
			"status().peers has the names of the tailnet", addr.Host, name)
	}
	f = fault.New(fault.Dial, "cannot dial %v: %v", addr, cause)
	var errno syscall.Errno
	if errors.As(err, &errno) { // over the host's network
		f.Errno = int(errno)
		switch errno {
		case syscall.ECONNREFUSED:
			f.Code = fault.Refused
		case syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ETIMEDOUT:
			f.Code = fault.Unreachable
		}
	} else if known, ok := dialErrnos[cause.Error()]; ok {
		f.Code, f.Errno = known.code, int(known.errno)
	}
	switch syscall.Errno(f.Errno) {
	case 0:
		f.Errno = int(syscall.EIO)
	case syscall.ECONNREFUSED:
		f.Message += "; nothing listens there, or it is full: start the service, or correct the port"
	case syscall.ETIMEDOUT:
		f.Message += "; its machine may be offline, or the rules forbid it"
	}
	return f
}

// AddrPort returns the address and port of a TCP address, IPv4 ones as such; zero for any other.
func AddrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// Routes reports whether an address is the node's own, a peer's, or routed by one.
func (s *Session) Routes(ctx context.Context, ip netip.Addr) (bool, error) {
	prefixes, generation := s.cache.routed()
	if prefixes == nil {
		st, err := s.Local.Status(ctx)
		if err != nil {
			return false, s.Failed(ctx, "status", err)
		}
		prefixes = []netip.Prefix{}
		for _, p := range st.Peer {
			if p.AllowedIPs != nil {
				prefixes = append(prefixes, p.AllowedIPs.AsSlice()...)
			}
		}
		for _, own := range st.TailscaleIPs {
			prefixes = append(prefixes, netip.PrefixFrom(own, own.BitLen()))
		}
		s.cache.setRouted(prefixes, generation)
	}
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(ip) }), nil
}

// OwnIP is the node's address of the same family as ip.
func (s *Session) OwnIP(ip netip.Addr) netip.Addr {
	for _, own := range s.Self.IPs {
		if own.Is4() == ip.Is4() {
			return own
		}
	}
	return s.Self.IPs[0]
}
