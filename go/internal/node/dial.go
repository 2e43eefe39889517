package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnstate"

	"tailnet/internal/bridge"
	"tailnet/internal/fault"
)

/*
tsnet's Dial sends what is no tailnet address out through the host's network, and
asks the host's resolver for names it does not know. Here a name is resolved by the
tailnet's DNS, the address is checked to be a peer's (or routed by one), and then
that very address is dialed, through the netstack.
*/

func (e *embedded) dial(ctx context.Context, addr Address) (*bridge.Dialed, error) {
	s, err := e.running()
	if err != nil {
		return nil, err
	}
	dialer := s.ts.Sys().Dialer.Get()
	running, done, err := s.whileRunning(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	ip, err := s.resolve(running, addr.Host)
	remote := netip.AddrPortFrom(ip, addr.Port) // gonet has no word for a peer that has reset
	var c net.Conn
	switch {
	case err == nil && dialer.UseNetstackForIP(ip):
		c, err = dialer.NetstackDialTCP(running, remote)
	case e.cfg.AllowHostNetwork && (err == nil || fault.Is(err, fault.Name)):
		return dialKernel(ctx, s.session, addr, addr.String())
	case err == nil:
		return nil, s.noRoute(ctx, addr, ip)
	}
	if err != nil {
		return nil, s.dialError(ctx, addr, err)
	}
	far, err := newFar(c)
	if err != nil {
		c.Close()
		return nil, err
	}
	return &bridge.Dialed{Local: addrPort(c.LocalAddr()), Remote: remote, Far: far}, nil
}

// dialKernel dials as any program of this host.
func dialKernel(ctx context.Context, life *session, addr Address, to string) (*bridge.Dialed, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", to)
	if err != nil {
		return nil, life.dialError(ctx, addr, err)
	}
	return &bridge.Dialed{Local: addrPort(c.LocalAddr()), Remote: addrPort(c.RemoteAddr()), Far: bridge.Kernel(c.(*net.TCPConn))}, nil
}

func (s *session) noRoute(ctx context.Context, addr Address, ip netip.Addr) error {
	if err := s.host.whyNot(ctx); err != nil {
		return err
	}
	f := fault.New(fault.Unreachable, "cannot dial %v: %v is not on the tailnet, and no peer routes to it; "+
		"allow_host_network=True would dial it over this host's network", addr, ip)
	f.Errno = int(syscall.EHOSTUNREACH)
	return f
}

// whyNot says why a node that was up no longer is.
func (s *server) whyNot(ctx context.Context) error {
	if why := s.ended.Load(); why != nil {
		return why
	}
	if err := s.wasRemoved(); err != nil {
		return err
	}
	st, err := s.local.StatusWithoutPeers(ctx)
	if err != nil || st.BackendState == ipn.Running.String() {
		return nil
	}
	if st.BackendState == ipn.NeedsLogin.String() {
		return fault.New(fault.Auth, "node %q is no longer logged in: its key has expired or was removed; extend it in the admin console, or join again", s.self.Hostname)
	}
	return fault.New(fault.Connect, "node %q is %s, not Running", s.self.Hostname, st.BackendState)
}

// whyGone: the LocalAPI of this process is there as long as the process.
func (s *server) whyGone(context.Context) error { return nil }

func (s *server) stranger(*ipnstate.Status) error { return nil }

func (s *server) offline() bool { return !s.ts.Sys().NetMon.Get().InterfaceState().AnyInterfaceUp() }

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

func (s *session) dialError(ctx context.Context, addr Address, err error) error {
	var f *fault.Error
	if errors.As(err, &f) && f.Code == fault.Name { // with allow_host_network the host is asked next
		f.Message += "; allow_host_network=True would dial it over this host's network"
	}
	if f != nil || ctx.Err() != nil {
		return err
	}
	if err := s.host.whyNot(ctx); err != nil {
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

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
