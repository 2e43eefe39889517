package embedded

import (
	"cmp"
	"context"
	"errors"
	"strings"

	"tailscale.com/ipn"

	"tailnet/internal/bridge"
	"tailnet/internal/config"
	"tailnet/internal/fault"
	"tailnet/internal/logs"
	"tailnet/internal/session"
	"tailnet/internal/state"
)

// Up is one attempt: a server, watched until a row of the table in classify.go decides. It is a
// fresh one, but where the one before still waits for a person, whose login would be worth
// nothing with another, or where the caller gave up: then the next attempt goes on with it.
func (e *Backend) Up(ctx context.Context, args session.UpArgs) (*session.Identity, error) {
	e.mu.Lock()
	s := e.server
	e.mu.Unlock()
	if s != nil && s.Self != nil {
		return s.Self, s.WasRemoved()
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
	if fault.Is(err, fault.LoginRequired) && !s.retags && !s.keys.NodeKey().IsZero() {
		err = session.Explain(err)
		s.awaitExtension(e.cfg)
	}
	if err == nil || session.Pending(ctx, err) {
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
func (e *Backend) join(ctx context.Context, s *server, args session.UpArgs) (_ *session.Identity, err error) {
	if s.retags {
		defer func() { err = session.OtherTags(e.cfg, err, s.had) }()
		if !s.renewing { // the server would take the node key that the store has, and leave the tags
			if err := s.Local.StartLoginInteractive(ctx); err != nil {
				return nil, fault.For(fault.Internal, err, "login")
			}
			s.renewing = true
		}
	}
	var again func(context.Context) error
	if e.cfg.HasSecret() && !s.keyed { // it was to come back without a key
		again = func(ctx context.Context) error { return e.login(ctx, s) }
	}
	if err := s.AwaitRunning(ctx, e.cfg, e.log, args, nil, again); err != nil {
		return nil, err
	}
	if err := s.settle(ctx, e.cfg); err != nil {
		return nil, err
	}
	id, st, err := s.Identify(ctx, e.cfg.ControlName())
	if err != nil {
		return nil, err
	}
	if s.before.Undoing, err = s.Named(ctx, e.cfg, id, s.before.Machine, e.log); err != nil {
		return nil, err
	}
	if err := s.CheckTags(ctx, e.cfg, e.log, st, s.oldKey); err != nil {
		return nil, err
	}
	s.keys.Settle(true)
	state.KeepTags(e.cfg)
	e.mu.Lock()
	s.Joined(id)
	e.mu.Unlock()
	bridge.Go(func() { s.Follow(func(n ipn.Notify) { e.obey(s, n) }, func() {}) })
	return id, nil
}

// startError classifies what tsnet's Start returns.
func startError(c *config.Config, l *logs.Logger, err error) error {
	text := l.Redact(err.Error())
	if errors.Is(err, context.Canceled) {
		return err
	}
	f := fault.For(fault.Config, err, "node %q cannot start in %s", c.Hostname, cmp.Or(c.StateDir, "a temporary directory"))
	if strings.Contains(text, "MachineKey") { // the file is JSON, but what is in it is no key
		f.Message += "; restore the state, or remove it to join as a new machine"
	}
	f.Message = l.Redact(f.Message)
	return f
}
