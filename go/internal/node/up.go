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
	if err := s.awaitRunning(ctx, e.cfg, e.log, args, nil, nil); err != nil {
		return nil, err
	}
	if err := s.settle(ctx, e.cfg); err != nil {
		return nil, err
	}
	id, _, err := s.identify(ctx, e.cfg.controlName())
	if err != nil {
		return nil, err
	}
	if err := s.named(ctx, e.cfg, id, s.before, e.log); err != nil {
		return nil, err
	}
	id.ControlURL = cmp.Or(e.cfg.ControlURL, ipn.DefaultControlURL)
	e.mu.Lock()
	s.joined(id)
	e.mu.Unlock()
	bridge.Go(func() { s.follow(func(n ipn.Notify) { e.obey(s, n) }, func() {}) })
	return id, nil
}

const upMask = ipn.NotifyInitialState | ipn.NotifyInitialHealthState | ipn.NotifyInitialPrefs

// awaitRunning watches the IPN bus until a row decides. login, where there is one, is called
// once the bus is watched: control's answer is heard, and not taken for one to an earlier key.
// again, where there is one, is called after a refusal, once.
func (s *session) awaitRunning(ctx context.Context, c *Config, log *logger, args UpArgs, login, again func(context.Context) error) error {
	// tsnet's Up waits for ever where control cannot be reached; and its Close takes
	// 5 s while a watcher is open, so this one ends before we return.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	notes := make(chan ipn.Notify)
	lost := make(chan struct{}, 1)
	bridge.Go(func() {
		s.watchBus(ctx, upMask, func(n ipn.Notify) { deliver(ctx, notes, n) }, func() {
			select {
			case lost <- struct{}{}:
			default:
			}
		})
	})

	var begun chan error // what is heard until the login has begun is of an earlier one
	begin := func() {
		begun = make(chan error, 1)
		bridge.Go(func() { begun <- login(ctx) })
	}
	var w progress
	w.loginKnown = args.KnownURL
	// The caller may have seen the login through just now: the news takes a moment.
	if !args.WaitForPerson && s.url != "" {
		w.loginKnown = s.url
	}
	loginGrace := time.NewTimer(grace)
	defer loginGrace.Stop()
	silence := time.NewTimer(c.connectTimeout())
	defer silence.Stop()
	approval := time.NewTimer(time.Hour)
	approval.Stop()
	defer approval.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-begun:
			if err != nil {
				return err
			}
			login, begun = nil, nil
		case <-lost: // a daemon; it may be back already, with the login that was begun
			if s.whyGone == nil {
				continue
			}
			if err := s.whyGone(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		case <-silence.C:
			if w.waitsForPerson() {
				silence.Reset(c.connectTimeout())
				continue
			}
			if said := cmp.Or(w.loginError, w.stale); w.heard && said != "" { // control says it of this key too
				w.loginError, w.stale, w.heard = said, "", false
				break
			}
			if s.offline != nil && s.offline() {
				return fault.New(fault.Connect, "no answer from %s within %v, and this machine has no network but its loopback; connect it", c.controlName(), c.connectTimeout())
			}
			return fault.New(fault.Connect, "no answer from %s within %v (state %v); check the server, or raise connect_timeout", c.controlName(), c.connectTimeout(), w.state)
		case <-loginGrace.C:
			if !args.WaitForPerson {
				w.loginKnown = ""
			}
		case <-approval.C:
			if w.state == ipn.NeedsMachineAuth && !args.WaitForPerson {
				return fault.New(fault.ApprovalRequired, "machine %q has logged in and waits for an admin of the tailnet to approve it; call up() again then", c.Hostname)
			}
		case n := <-notes:
			before := w.state
			if login != nil {
				w.begins(n)
				if begun == nil {
					begin()
				}
			} else {
				w.note(n)
			}
			if w.state != before {
				silence.Reset(c.connectTimeout())
			}
			if w.state == ipn.NeedsMachineAuth && before != ipn.NeedsMachineAuth {
				approval.Reset(grace)
			}
		}
		running, err := w.decide(c, args.WaitForPerson)
		if err != nil && err.Code == fault.Auth && again != nil {
			// A daemon that knows the tailnet tries by itself, without our key, and its refusal
			// may come before our login, or after it has begun. Only the second is surely ours.
			login, again = again, nil
			w.begins(ipn.Notify{})
			begin()
			continue
		}
		if err != nil {
			err.Message = log.redact(err.Message)
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

// startError classifies what tsnet's Start returns.
func startError(c *Config, l *logger, err error) error {
	text := l.redact(err.Error())
	if errors.Is(err, context.Canceled) {
		return err
	}
	if strings.Contains(text, "resolving auth key") {
		return fault.New(fault.Auth, "the client secret was not accepted: %s; check client_secret, and the tags that it may give", text)
	}
	f := fault.For(fault.Config, err, "node %q cannot start in %s", c.Hostname, cmp.Or(c.StateDir, "a temporary directory"))
	if strings.Contains(text, "MachineKey") { // the file is JSON, but what is in it is no key
		f.Message += "; restore the state, or remove it to join as a new machine"
	}
	f.Message = l.redact(f.Message)
	return f
}
