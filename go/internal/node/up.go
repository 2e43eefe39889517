package node

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"tailscale.com/ipn"

	"tailnet/internal/bridge"
	"tailnet/internal/fault"
)

// up is one attempt: a fresh server, watched until a row of the table in classify.go
// decides. A server that waits for a person is kept, because its key lives only in
// it: with a new one the login would be worth nothing.
func (e *embedded) up(ctx context.Context, args UpArgs) (*Identity, error) {
	e.mu.Lock()
	s := e.server
	e.mu.Unlock()
	if s != nil && s.self != nil {
		return s.self, nil
	}
	if s == nil {
		var err error
		if s, err = e.start(ctx); err != nil {
			return nil, err
		}
	}
	id, err := e.join(ctx, s, args)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil || fault.Is(err, fault.LoginRequired) || fault.Is(err, fault.ApprovalRequired) ||
		(args.WaitForPerson && ctx.Err() != nil && e.server == s) { // a wait that the caller gave up
		e.server = s
		return id, err
	}
	e.server = nil
	s.stop()
	return nil, err
}

// join waits until the server runs, and makes it ready.
func (e *embedded) join(ctx context.Context, s *server, args UpArgs) (*Identity, error) {
	if err := e.awaitRunning(ctx, s, args); err != nil {
		return nil, err
	}
	if err := s.settle(ctx, e.cfg); err != nil {
		return nil, err
	}
	st, err := s.local.StatusWithoutPeers(ctx)
	if err != nil {
		return nil, fault.New(fault.Internal, "status: %v", err)
	}
	if len(st.TailscaleIPs) == 0 || st.Self == nil {
		return nil, fault.New(fault.Connect, "%s let the node in but gave it no address", e.cfg.controlName())
	}
	fqdn := strings.TrimSuffix(st.Self.DNSName, ".")
	hostname, _, _ := strings.Cut(fqdn, ".")
	if hostname == "" { // MagicDNS is off
		hostname = st.Self.HostName
	}
	id := &Identity{hostname, fqdn, st.TailscaleIPs, cmp.Or(e.cfg.ControlURL, ipn.DefaultControlURL)}
	e.mu.Lock()
	s.self = id
	e.mu.Unlock()
	s.note(ipn.Running)
	bridge.Go(func() { e.cache.follow(s.ctx, s.local, s.note) })
	return id, nil
}

const upMask = ipn.NotifyInitialState | ipn.NotifyInitialHealthState | ipn.NotifyInitialPrefs

// awaitRunning watches the IPN bus until a row decides.
func (e *embedded) awaitRunning(ctx context.Context, s *server, args UpArgs) error {
	// tsnet's Up waits for ever where control cannot be reached; and its Close takes
	// 5 s while a watcher is open, so this one ends before we return.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	notes := make(chan ipn.Notify)
	bridge.Go(func() { follow(ctx, s.local, upMask, func(n ipn.Notify) { deliver(ctx, notes, n) }) })

	var w progress
	w.loginKnown = args.KnownURL
	// The caller may have seen the login through just now: the news takes a moment.
	if !args.WaitForPerson && s.url != "" {
		w.loginKnown = s.url
	}
	loginGrace := time.NewTimer(grace)
	defer loginGrace.Stop()
	silence := time.NewTimer(e.cfg.connectTimeout())
	defer silence.Stop()
	approval := time.NewTimer(time.Hour)
	approval.Stop()
	defer approval.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-silence.C:
			if w.waitsForPerson() {
				silence.Reset(e.cfg.connectTimeout())
				continue
			}
			return fault.New(fault.Connect, "no answer from %s within %v (state %v)", e.cfg.controlName(), e.cfg.connectTimeout(), w.state)
		case <-loginGrace.C:
			if !args.WaitForPerson {
				w.loginKnown = ""
			}
		case <-approval.C:
			if w.state == ipn.NeedsMachineAuth && !args.WaitForPerson {
				return fault.New(fault.ApprovalRequired, "machine %q has logged in and waits for an admin of the tailnet to approve it", e.cfg.Hostname)
			}
		case n := <-notes:
			before := w.state
			w.note(n)
			if w.state != before {
				silence.Reset(e.cfg.connectTimeout())
			}
			if w.state == ipn.NeedsMachineAuth && before != ipn.NeedsMachineAuth {
				approval.Reset(grace)
			}
		}
		running, err := w.decide(e.cfg, args.WaitForPerson)
		if err != nil {
			err.Message = e.log.redact(err.Message)
			s.url = w.url
			return err
		}
		if running {
			return nil
		}
	}
}

func deliver(ctx context.Context, notes chan<- ipn.Notify, n ipn.Notify) {
	select {
	case notes <- n:
	case <-ctx.Done():
	}
}

// follow calls f with every notification until ctx ends. A watch that falls behind
// is cut off by the bus; it is then taken up again, with a new snapshot.
func follow(ctx context.Context, lc busWatcher, mask ipn.NotifyWatchOpt, f func(ipn.Notify)) {
	for ctx.Err() == nil {
		w, err := lc.WatchIPNBus(ctx, mask)
		for err == nil {
			var n ipn.Notify
			if n, err = w.Next(); err == nil && !fellBehind(n) {
				f(n)
			}
		}
		if w != nil {
			w.Close()
		}
		if ctx.Err() == nil { // not at once: the backend may be going away
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}

func fellBehind(n ipn.Notify) bool {
	return n.ErrMessage != nil && strings.Contains(*n.ErrMessage, "IPN bus consumer fell behind")
}

// startError classifies what tsnet's Start returns.
func startError(c *Config, l *logger, err error) error {
	text := l.redact(err.Error())
	if errors.Is(err, context.Canceled) {
		return err
	}
	if strings.Contains(text, "resolving auth key") {
		return fault.New(fault.Auth, "the client secret was not accepted: %s", text)
	}
	f := fault.For(fault.Config, err, "node %q cannot start in %s", c.Hostname, cmp.Or(c.StateDir, "a temporary directory"))
	f.Message = l.redact(f.Message)
	return f
}
