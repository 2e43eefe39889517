package sidecar

import (
	"cmp"
	"context"
	"fmt"
	rand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/ipn"
	"tailscale.com/safesocket"

	"tailnet/internal/bridge"
	"tailnet/internal/config"
	"tailnet/internal/fault"
	"tailnet/internal/logs"
	"tailnet/internal/proxied"
	"tailnet/internal/session"
)

/*
Through a daemon without a TUN, connections come in by its serve configuration: an entry
forwards a port of the tailnet to a port of 127.0.0.1 where we listen, with the peer's
address in a PROXY header.

The entries are in the Foreground block of our own watch of the IPN bus: the daemon drops
them when that ends, however we end, so there is nothing to restore. The configuration is
one document that every program on the machine writes whole; its ETag makes the daemon
refuse ours where somebody was faster, and then it is read again.
*/
type serving struct {
	life *session.Session
	log  *logs.Logger

	// updating holds something while the configuration is read and written; entries are what it
	// shall be, so a removal is not waited for: the next writer has it.
	updating chan struct{}

	mu      sync.Mutex
	session string                 // of our watch
	entries map[uint16]*serveEntry // by port of the tailnet
	watched chan struct{}          // closed once there is a session
}

type serveEntry struct {
	target string
	a      *bridge.Acceptor
}

const (
	// updateTries: each is lost to another program that wrote meanwhile.
	updateTries = 50

	// updateLimit is for what nobody waits for.
	updateLimit = 5 * time.Second

	// headerLimit: the daemon sends the header at once, with its first packet.
	headerLimit = 5 * time.Second
)

func (s *serving) init(life *session.Session, log *logs.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.life, s.log, s.session = life, log, ""
	s.entries, s.watched, s.updating = map[uint16]*serveEntry{}, make(chan struct{}), make(chan struct{}, 1)
}

// watch takes a new watch in; the entries of the one before are gone.
func (s *serving) watch(session string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == "" {
		close(s.watched)
	}
	s.session = session
}

// resume brings the entries back, which go with a watch, and with a logout too, though the
// daemon then leaves the watch open.
func (s *serving) resume() {
	s.mu.Lock()
	idle := len(s.entries) == 0
	s.mu.Unlock()
	if !idle {
		s.updateLater()
	}
}

// add asks the daemon to forward a port, any for 0, to target.
func (s *serving) add(ctx context.Context, number uint16, target string, a *bridge.Acceptor) (uint16, *serveEntry, error) {
	select {
	case <-s.watched:
	case <-time.After(session.AnswerLimit):
		return 0, nil, s.life.Failed(ctx, "serving through tailscaled", context.DeadlineExceeded)
	case <-ctx.Done():
		return 0, nil, ctx.Err()
	}
	entry, want := &serveEntry{target, a}, number
	err := s.update(ctx, func(taken func(uint16) bool) error {
		if s.entries[number] == entry { // of a try that somebody else was faster than
			delete(s.entries, number)
		}
		if number = want; number == 0 {
			for number = session.FirstAny; number <= session.LastAny && taken(number); number++ {
			}
			if number > session.LastAny {
				return fault.New(fault.AddressInUse, "cannot listen: ports %d to %d are all served by tailscaled", session.FirstAny, session.LastAny)
			}
		} else if taken(number) {
			return fault.New(fault.AddressInUse, "cannot listen on port %d: tailscaled serves it already (see: tailscale serve status --json)", number)
		}
		s.entries[number] = entry
		return nil
	})
	if err != nil {
		s.remove(number, entry) // it may have been written before the daemon was found not to understand it
		return 0, nil, err
	}
	return number, entry, nil
}

func (s *serving) drop(number uint16, entry *serveEntry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := s.entries[number] == entry
	if mine {
		delete(s.entries, number)
	}
	return mine
}

// remove takes an entry out, without waiting.
func (s *serving) remove(number uint16, entry *serveEntry) {
	if s.drop(number, entry) {
		s.updateLater()
	}
}

func (s *serving) updateLater() {
	bridge.Go(func() {
		ctx, cancel := context.WithTimeout(s.life.Ctx, updateLimit)
		defer cancel()
		if err := s.update(ctx, func(func(uint16) bool) error { return nil }); err != nil && s.life.Ctx.Err() == nil {
			level := "error"
			if fault.Is(err, fault.NotRunning) { // it is away: the entries come when it is back
				level = "debug"
			}
			s.log.At(level)("serving through tailscaled: %v", err)
		}
	})
}

// update writes the entries into the daemon's configuration, after change has been made to
// them. change is told what others serve; it is called again when somebody was faster.
func (s *serving) update(ctx context.Context, change func(taken func(uint16) bool) error) error {
	select {
	case s.updating <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.updating }()
	for try := 1; ; try++ {
		config, err := s.life.Local.GetServeConfig(ctx)
		if err != nil {
			return s.refused(ctx, err)
		}
		err = s.fill(config, change)
		if err != nil {
			return err
		}
		if err = s.life.Local.SetServeConfig(ctx, config); err == nil {
			break
		}
		if !local.IsPreconditionsFailedError(err) || try == updateTries {
			return s.refused(ctx, err)
		}
	}
	return s.understood(ctx)
}

func (s *serving) fill(config *ipn.ServeConfig, change func(taken func(uint16) bool) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := func(number uint16) bool {
		if s.entries[number] != nil {
			return true
		}
		if _, ok := config.TCP[number]; ok {
			return true
		}
		for session, fg := range config.Foreground {
			if _, ok := fg.TCP[number]; ok && session != s.session {
				return true
			}
		}
		return false
	}
	if err := change(taken); err != nil {
		return err
	}
	// An empty block stays: without one, the daemon would end the watch.
	ours := &ipn.ServeConfig{TCP: map[uint16]*ipn.TCPPortHandler{}}
	for number, e := range s.entries {
		ours.TCP[number] = &ipn.TCPPortHandler{TCPForward: e.target, ProxyProtocol: 2}
	}
	if config.Foreground == nil {
		config.Foreground = map[string]*ipn.ServeConfig{}
	}
	config.Foreground[s.session] = ours
	return nil
}

// understood asks for what was written: a daemon that is too old for PROXY headers has
// dropped the field that asks for them, and would forward connections of nobody.
func (s *serving) understood(ctx context.Context) error {
	config, err := s.life.Local.GetServeConfig(ctx)
	if err != nil {
		return s.refused(ctx, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fg := config.Foreground[s.session]
	if fg == nil { // the watch has ended meanwhile; the next one brings the entries back
		return nil
	}
	for _, h := range fg.TCP {
		if h.ProxyProtocol != 2 {
			return fault.New(fault.Unsupported, "this tailscaled is too old to say who is calling: listening needs version 1.92 or newer; "+
				"upgrade it, or use backend=\"embedded\"")
		}
	}
	return nil
}

func (s *serving) refused(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case local.IsAccessDeniedError(err):
		return fault.New(fault.NotRunning, "tailscaled does not permit this user to listen; sudo tailscale set --operator=$USER allows it")
	}
	return s.life.Failed(ctx, "serving through tailscaled", err)
}

// end tells everybody who waits for a connection that none will come.
func (s *serving) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		e.a.End()
	}
}

// clear takes all entries out. They would go with the watch too, but a moment later.
func (s *serving) clear() {
	s.mu.Lock()
	some := s.session != "" && len(s.entries) > 0
	s.entries = map[uint16]*serveEntry{}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(s.life.Ctx, session.ProbeLimit)
	defer cancel()
	if some {
		s.update(ctx, func(func(uint16) bool) error { return nil })
	}
	select { // what removes an entry in the background is through, too
	case s.updating <- struct{}{}:
		<-s.updating
	case <-ctx.Done():
	}
}

// listenServed makes connections to a port of the daemon's node arrive at a.
func (l *life) listenServed(ctx context.Context, addr config.Address, on []netip.Addr, a *bridge.Acceptor) (uint16, func(), error) {
	if err := l.reaches(); err != nil {
		return 0, nil, err
	}
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: someLoopback()})
	if err != nil {
		return 0, nil, fault.For(fault.Internal, err, "no port on 127.0.0.0/8 for tailscaled to forward to")
	}
	number, entry, err := l.serve.add(ctx, addr.Port, ln.Addr().String(), a)
	if err != nil {
		ln.Close()
		return 0, nil, err
	}
	bridge.Go(func() { l.acceptServed(ln, on, a) })
	return number, func() { ln.Close(); l.serve.remove(number, entry) }, nil
}

// someLoopback is not 127.0.0.1: the daemon forwards a peer's connection to a port that is
// not served to that port there, without a header (netstack.go, acceptTCP). A peer that found
// ours could write the header itself.
func someLoopback() net.IP {
	return net.IPv4(127, byte(1+rand.IntN(254)), byte(rand.IntN(256)), byte(1+rand.IntN(254)))
}

func (l *life) acceptServed(ln *net.TCPListener, on []netip.Addr, a *bridge.Acceptor) {
	var owners proxied.Owners
	defer owners.Close()
	accepting(ln, func(c *net.TCPConn) {
		// Here, not in a goroutine: what it asks is true only as long as the other end is open.
		if uid, err := owners.AcceptedUID(c); err != nil || uid != l.uid {
			l.refusals.Log(l.log.At("warning"), "refused a connection to %v, which only tailscaled (uid %d) may make: %v", ln.Addr(), l.uid,
				cmp.Or(err, fmt.Errorf("it is of uid %d", uid)))
			reset(c)
			return
		}
		bridge.Go(func() {
			src, dst, err := proxied.ReadHeader(c, headerLimit)
			if err != nil {
				l.refusals.Log(l.log.At("warning"), "a connection from tailscaled: %v", err)
			}
			if err != nil || !slices.Contains(on, dst.Addr()) || a.Full() {
				reset(c)
				return
			}
			a.HandOver(bridge.Through(c, l.gone(l.process.Load())), src)
		})
	})
}

// reaches makes sure that the daemon, whose 127.0.0.1 is that of its network namespace,
// can connect to ours.
func (l *life) reaches() error {
	if !l.Local.UseSocketOnly {
		if _, _, err := safesocket.LocalTCPPortAndToken(); err == nil {
			return fault.New(fault.Unsupported, "listening through the Tailscale app of macOS is not supported; use backend=\"embedded\"")
		}
	}
	if same, err := proxied.SameNetwork(l.Where); err != nil {
		return err
	} else if !same {
		return fault.New(fault.Unsupported, "tailscaled at %s runs in another network namespace (a container?), from where it cannot "+
			"reach this process; run both in one, or use backend=\"embedded\"", l.Where)
	}
	return nil
}
