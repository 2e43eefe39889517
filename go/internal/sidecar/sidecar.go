// Package sidecar is a node that a tailscaled runs: one that is there, or a child of ours.
//
// Read sidecar.go, joining.go, expiry.go, daemon.go and hearing.go for its life, listen.go, serve.go and
// dial.go for that of a connection, and child.go for a daemon of our own.
package sidecar

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"

	"tailscale.com/ipn"
	"tailscale.com/paths"

	"tailnet/internal/bridge"
	"tailnet/internal/config"
	"tailnet/internal/fault"
	"tailnet/internal/logs"
	"tailnet/internal/proxied"
	"tailnet/internal/session"
)

/*
A Backend asks the daemon everything through its LocalAPI, with Tailscale's own client. Where the
daemon has a TUN, its node's addresses are the kernel's; else connections come in and go out
through entries in its serve configuration, and through its proxy.

The daemon lives on its own terms: it restarts, is stopped, logs out, switches to another
account. The session then does not run, and says why; it runs again when the same node is
back, and listeners with it.
*/
type Backend struct {
	cfg *config.Config
	log *logs.Logger

	mu   sync.Mutex
	life *life // nil before the first up; a pending one while a person must act, or after an attempt that was given up
}

// life is what we have of a daemon from up to close. What join finds out is not changed
// after it, but for the process, which is another one after a restart.
type life struct {
	*session.Session
	cfg     *config.Config
	log     *logs.Logger
	child   *child                          // where we run it
	tun     bool                            // its node is on a network interface of the kernel
	uid     uint32                          // whom it belongs to
	process atomic.Pointer[proxied.Process] // the daemon, as it was when this watch of it began
	node    string                          // its node's stable ID: another one is not ours
	begun   atomic.Bool                     // it has been told to log in with our key
	awaits  bool                            // we look whether the admin extends its expired node key
	serve   serving

	refusals logs.Flood // of connections to where tailscaled forwards to, which every local user can make
}

// New returns a node that has not joined; no daemon has been asked or started yet.
func New(c *config.Config) *Backend {
	if !c.TailscaledManaged { // the node is the daemon's, and so is its name
		named := *c
		named.Hostname = "tailscaled"
		c = &named
	}
	return &Backend{cfg: c, log: c.Logger()}
}

// Up is one attempt to reach the daemon and to join. A life that waits for a person, or whose caller
// gave up, is kept, and the next attempt goes on with it.
func (s *Backend) Up(ctx context.Context, args session.UpArgs) (*session.Identity, error) {
	s.mu.Lock()
	l := s.life
	s.mu.Unlock()
	if l != nil && l.Self != nil {
		return l.Self, l.WasRemoved()
	}
	if l == nil {
		var err error
		if l, err = s.reach(ctx); err != nil {
			return nil, err
		}
	}
	id, err := l.join(ctx, args)
	if fault.Is(err, fault.LoginRequired) {
		if keys := l.keys(); keys != nil && !keys.NodeKey().IsZero() {
			err = session.Explain(err)
			l.awaitExtension(keys)
		}
	}
	if err != nil && !session.Pending(ctx, err) {
		l.end()
		l = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		l.Joined(id)
		if l.child != nil {
			l.child.joined.Store(true)
			bridge.Go(l.outlive)
		}
		bridge.Go(func() { l.Follow(l.note, func() { l.Session.Note(ipn.NoState) }) })
		bridge.Go(l.hearLog)
	}
	s.life = l
	return id, err
}

// reach finds the daemon, or starts it.
func (s *Backend) reach(ctx context.Context) (*life, error) {
	l := &life{cfg: s.cfg, log: s.log}
	l.Session = session.New(l)
	socket := s.cfg.TailscaledSocket
	if s.cfg.TailscaledManaged {
		var err error
		if l.child, err = startChild(s.cfg, s.log); err != nil {
			return nil, err
		}
		socket = l.child.socket
	}
	l.Local, l.Slow = session.NewClient(socket, session.AnswerLimit), session.NewClient(socket, 0)
	l.Where = cmp.Or(socket, paths.DefaultTailscaledSocket())
	return l, nil
}

// note takes in what the daemon says while the node is up.
func (l *life) note(n ipn.Notify) {
	if n.SessionID != "" { // the first of a watch; our entries live as long as that
		l.meetAgain()
		l.serve.watch(n.SessionID)
	}
	if n.SelfChange != nil || len(n.PeersChanged)+len(n.PeersRemoved) > 0 { // control speaks with it again
		l.NoteRemoved(false)
	}
	switch {
	case n.SelfChange != nil && string(n.SelfChange.StableID) != l.node:
		l.Session.Note(ipn.NoState) // another node's running is not ours
	case n.State != nil && *n.State == ipn.Running:
		if l.WhyNot(l.Ctx) != nil {
			l.Session.Note(ipn.NoState)
		} else {
			l.Session.Note(ipn.Running)
			l.serve.resume()
		}
	}
}

// outlive tells who waits for connections when a child is gone: it does not come back.
func (l *life) outlive() {
	select {
	case <-l.child.done:
		l.serve.end()
	case <-l.Ctx.Done():
	}
}

func (s *Backend) joined() (*life, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life == nil || s.life.Self == nil {
		return nil, fault.New(fault.Closed, "the node has not joined the tailnet, or has left it")
	}
	return s.life, nil
}

// Session returns the session of a node that has joined, or fault.Closed.
func (s *Backend) Session() (*session.Session, error) {
	l, err := s.joined()
	if err != nil {
		return nil, err
	}
	return l.Session, nil
}

// Close lets go of the daemon: our entries in it end, and a child of ours ends altogether.
func (s *Backend) Close() {
	s.mu.Lock()
	l := s.life
	s.life = nil
	s.mu.Unlock()
	if l == nil {
		return
	}
	if l.Self != nil {
		if l.child != nil {
			awaitQuiet(l.Local)
		} else {
			l.serve.clear()
		}
	}
	l.end()
}

// end lets go of the daemon: its watch ends, and our entries with that. A child ends.
func (l *life) end() {
	l.Cancel()
	l.child.stop()
}
