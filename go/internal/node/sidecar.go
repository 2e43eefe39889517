package node

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"

	"tailscale.com/ipn"
	"tailscale.com/paths"

	"tailnet/internal/bridge"
	"tailnet/internal/fault"
	"tailnet/internal/proxied"
)

/*
sidecar is a node that a tailscaled runs: one that is there, or a child of ours (child.go).
Everything is asked through its LocalAPI, with Tailscale's own client (localapi.go). How it
joins is joining.go, how connections come in serve.go, how they go out through.go; a daemon with a TUN needs neither, its node's
addresses are the kernel's (tun.go).

The daemon lives on its own terms: it restarts, is stopped, logs out, switches to another
account. The session then does not run, and says why; it runs again when the same node is
back, and listeners with it.
*/
type sidecar struct {
	cfg *Config
	log *logger

	mu   sync.Mutex
	life *life // nil before the first up; a pending one while a person must act, or after an attempt that was given up
}

// life is what we have of a daemon from up to close. What join finds out is not changed
// after it, but for the process, which is another one after a restart.
type life struct {
	*session
	cfg     *Config
	log     *logger
	child   *child                          // where we run it
	tun     bool                            // its node is on a network interface of the kernel
	uid     uint32                          // whom it belongs to
	process atomic.Pointer[proxied.Process] // the daemon, as it was when this watch of it began
	node    string                          // its node's stable ID: another one is not ours
	begun   atomic.Bool                     // it has been told to log in with our key
	serve   serving

	refusals flood // of connections to where tailscaled forwards to, which every local user can make
}

func newSidecar(c *Config) *sidecar {
	if !c.TailscaledManaged { // the node is the daemon's, and so is its name
		named := *c
		named.Hostname = "tailscaled"
		c = &named
	}
	return &sidecar{cfg: c, log: c.logger()}
}

func (s *sidecar) up(ctx context.Context, args UpArgs) (*Identity, error) {
	s.mu.Lock()
	l := s.life
	s.mu.Unlock()
	if l != nil && l.self != nil {
		return l.self, l.wasRemoved()
	}
	if l == nil {
		var err error
		if l, err = s.reach(ctx); err != nil {
			return nil, err
		}
	}
	id, err := l.join(ctx, args)
	if err != nil && !pending(ctx, err) {
		l.end()
		l = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		l.joined(id)
		if l.child != nil {
			l.child.joined.Store(true)
			bridge.Go(l.outlive)
		}
		bridge.Go(func() { l.follow(l.note, func() { l.session.note(ipn.NoState) }) })
		bridge.Go(l.hearLog)
	}
	s.life = l
	return id, err
}

// reach finds the daemon, or starts it.
func (s *sidecar) reach(ctx context.Context) (*life, error) {
	l := &life{cfg: s.cfg, log: s.log}
	l.session = newSession(l)
	socket := s.cfg.TailscaledSocket
	if s.cfg.TailscaledManaged {
		var err error
		if l.child, err = startChild(s.cfg, s.log); err != nil {
			return nil, err
		}
		socket = l.child.socket
	}
	l.local, l.slow = newClient(socket, answerLimit), newClient(socket, 0)
	l.where = cmp.Or(socket, paths.DefaultTailscaledSocket())
	return l, nil
}

// note takes in what the daemon says while the node is up.
func (l *life) note(n ipn.Notify) {
	if n.SessionID != "" { // the first of a watch; our entries live as long as that
		l.meetAgain()
		l.serve.watch(n.SessionID)
	}
	if n.SelfChange != nil || len(n.PeersChanged)+len(n.PeersRemoved) > 0 { // control speaks with it again
		l.noteRemoved(false)
	}
	switch {
	case n.SelfChange != nil && string(n.SelfChange.StableID) != l.node:
		l.session.note(ipn.NoState) // another node's running is not ours
	case n.State != nil && *n.State == ipn.Running:
		if l.whyNot(l.ctx) != nil {
			l.session.note(ipn.NoState)
		} else {
			l.session.note(ipn.Running)
			l.serve.resume()
		}
	}
}

// outlive tells who waits for connections when a child is gone: it does not come back.
func (l *life) outlive() {
	select {
	case <-l.child.done:
		l.serve.end()
	case <-l.ctx.Done():
	}
}

func (s *sidecar) joined() (*life, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life == nil || s.life.self == nil {
		return nil, fault.New(fault.Closed, "the node has not joined the tailnet, or has left it")
	}
	return s.life, nil
}

func (s *sidecar) session() (*session, error) {
	l, err := s.joined()
	if err != nil {
		return nil, err
	}
	return l.session, nil
}

func (s *sidecar) close() {
	s.mu.Lock()
	l := s.life
	s.life = nil
	s.mu.Unlock()
	if l == nil {
		return
	}
	if l.self != nil {
		if l.child != nil {
			awaitQuiet(l.local)
		} else {
			l.serve.clear()
		}
	}
	l.end()
}

// end lets go of the daemon: its watch ends, and our entries with that. A child ends.
func (l *life) end() {
	l.cancel()
	l.child.stop()
}
