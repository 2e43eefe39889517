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

// up is one attempt: a server, watched until a row of the table in classify.go decides. It is a
// fresh one, but where the one before still waits for a person, whose login would be worth
// nothing with another, or where the caller gave up: then the next attempt goes on with it.
func (e *embedded) up(ctx context.Context, args UpArgs) (*Identity, error) {
	e.mu.Lock()
	s := e.server
	e.mu.Unlock()
	if s != nil && s.self != nil {
		return s.self, s.wasRemoved()
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
	if err == nil || fault.Is(err, fault.Auth) {
		e.made = "" // it has served, or never will
	}
	if fault.Is(err, fault.LoginRequired) {
		s.awaitExtension(e.cfg)
	}
	if err == nil || pending(ctx, err) {
		e.server = s
		return id, err
	}
	e.server = nil
	again := fault.Is(err, fault.Connect)
	s.stop(ending{again: again, useless: !again || deadNodeKey(err)})
	return nil, err
}

// deadNodeKey reports whether the server has let a node key expire that was new to us: somebody
// has logged the machine out between two attempts.
func deadNodeKey(err error) bool {
	return strings.Contains(err.Error(), "regen=true but server says NodeKeyExpired")
}

// join waits until the server runs, and makes it ready.
func (e *embedded) join(ctx context.Context, s *server, args UpArgs) (_ *Identity, err error) {
	if s.retags {
		defer func() { err = otherTags(e.cfg, err, s.had) }()
		if !s.renewing { // the server would take the node key that the store has, and leave the tags
			if err := s.local.StartLoginInteractive(ctx); err != nil {
				return nil, fault.For(fault.Internal, err, "login")
			}
			s.renewing = true
		}
	}
	var again func(context.Context) error
	if e.cfg.hasSecret() && !s.keyed { // it was to come back without a key
		again = func(ctx context.Context) error { return e.login(ctx, s) }
	}
	if err := s.awaitRunning(ctx, e.cfg, e.log, args, nil, again); err != nil {
		return nil, err
	}
	if err := s.settle(ctx, e.cfg); err != nil {
		return nil, err
	}
	id, st, err := s.identify(ctx, e.cfg.controlName())
	if err != nil {
		return nil, err
	}
	if s.before.undoing, err = s.named(ctx, e.cfg, id, s.before.machine, e.log); err != nil {
		return nil, err
	}
	if err := s.checkTags(ctx, e.cfg, e.log, st, s.oldKey); err != nil {
		return nil, err
	}
	s.keys.settle(true)
	keepTags(e.cfg)
	e.mu.Lock()
	s.joined(id)
	e.mu.Unlock()
	bridge.Go(func() { s.follow(func(n ipn.Notify) { e.obey(s, n) }, func() {}) })
	return id, nil
}

const upMask = ipn.NotifyInitialState | ipn.NotifyInitialHealthState | ipn.NotifyInitialPrefs

// awaitRunning watches the IPN bus until a row decides. login, where there is one, is called
// once the bus is watched: control's answer is heard, and not taken for one to an earlier key.
// again, where there is one, is called where the node turns out to need a login, once.
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

	var w progress
	var begun chan error // what is heard until the login has begun is of an earlier one
	begin := func() {
		if w.state == ipn.Running { // with what it had before this login
			w.state = ipn.NoState
		}
		begun = make(chan error, 1)
		bridge.Go(func() { begun <- login(ctx) })
	}
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
			if err := s.host.whyGone(ctx); err != nil && ctx.Err() == nil {
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
			if s.host.offline() {
				return fault.New(fault.Connect, "no answer from %s within %v, and this machine has no network but its loopback; connect it", c.controlName(), c.connectTimeout())
			}
			return fault.New(fault.Connect, "no answer from %s within %v (state %v); check the server, or raise connect_timeout", c.controlName(), c.connectTimeout(), w.state)
		case <-loginGrace.C:
			if !args.WaitForPerson {
				w.loginKnown = ""
			}
		case <-approval.C:
			if w.state == ipn.NeedsMachineAuth && !args.WaitForPerson {
				return unapproved(c)
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
		if err != nil && (err.Code == fault.Auth || err.Code == fault.LoginRequired) && again != nil {
			// A node that knows the tailnet tries by itself, without our key, and its refusal
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
		if running && login == nil { // else it runs with what it had
			return nil
		}
	}
}

// pending reports whether an attempt that has failed may go on: somebody must act first, or the
// caller gave up.
func pending(ctx context.Context, err error) bool {
	return ctx.Err() != nil || fault.Is(err, fault.LoginRequired) || fault.Is(err, fault.ApprovalRequired)
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
	f := fault.For(fault.Config, err, "node %q cannot start in %s", c.Hostname, cmp.Or(c.StateDir, "a temporary directory"))
	if strings.Contains(text, "MachineKey") { // the file is JSON, but what is in it is no key
		f.Message += "; restore the state, or remove it to join as a new machine"
	}
	f.Message = l.redact(f.Message)
	return f
}
