package embedded

import (
	"context"
	"net"
	"net/netip"

	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnstate"

	"tailnet/internal/bridge"
	"tailnet/internal/config"
	"tailnet/internal/fault"
	"tailnet/internal/logs"
	"tailnet/internal/session"
)

/*
tsnet's Dial sends what is no tailnet address out through the host's network, and
asks the host's resolver for names it does not know. Here a name is resolved by the
tailnet's DNS, the address is checked to be a peer's (or routed by one), and then
that very address is dialed, through the netstack.
*/

// Dial connects over the tailnet; ctx bounds it. Errors are those of session.DialError.
func (e *Backend) Dial(ctx context.Context, addr config.Address) (*bridge.Dialed, error) {
	s, err := e.running()
	if err != nil {
		return nil, err
	}
	dialer := s.ts.Sys().Dialer.Get()
	running, done, err := s.WhileRunning(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	ip, err := s.Resolve(running, addr.Host)
	remote := netip.AddrPortFrom(ip, addr.Port) // gonet has no word for a peer that has reset
	var c net.Conn
	switch {
	case err == nil && dialer.UseNetstackForIP(ip):
		c, err = dialer.NetstackDialTCP(running, remote)
	case e.cfg.AllowHostNetwork && (err == nil || fault.Is(err, fault.Name)):
		return session.DialKernel(ctx, s.Session, addr, addr.String())
	case err == nil:
		return nil, s.NoRoute(ctx, addr, ip)
	}
	if err != nil {
		return nil, s.DialError(ctx, addr, err)
	}
	far, err := newFar(c)
	if err != nil {
		c.Close()
		return nil, err
	}
	return &bridge.Dialed{Local: session.AddrPort(c.LocalAddr()), Remote: remote, Far: far}, nil
}

// WhyNot says why a node that was up no longer is.
func (s *server) WhyNot(ctx context.Context) error {
	if why := s.ended.Load(); why != nil {
		return why
	}
	if err := s.WasRemoved(); err != nil {
		return err
	}
	st, err := s.Local.StatusWithoutPeers(ctx)
	if err != nil || st.BackendState == ipn.Running.String() {
		return nil
	}
	if st.BackendState == ipn.NeedsLogin.String() {
		return fault.New(fault.Auth, "node %q is no longer logged in: its key has expired or was removed; extend it in the admin console, or join again", s.Self.Hostname)
	}
	return fault.New(fault.Connect, "node %q is %s, not Running", s.Self.Hostname, st.BackendState)
}

// WhyGone returns nil: the LocalAPI of this process is there as long as the process.
func (s *server) WhyGone(context.Context) error { return nil }

// Logger, Stranger and Offline are what session.Host asks for.
func (s *server) Logger() *logs.Logger { return s.log }

func (s *server) Stranger(*ipnstate.Status) error { return nil }

func (s *server) Offline() bool { return !s.ts.Sys().NetMon.Get().InterfaceState().AnyInterfaceUp() }
