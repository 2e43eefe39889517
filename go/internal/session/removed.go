package session

import (
	"tailscale.com/ipn"

	"tailnet/internal/bridge"
	"tailnet/internal/fault"
)

/*
An admin can remove a node from the tailnet while it runs. The control server then answers each of
its requests for the network map with HTTP 404. Tailscale's code logs that, tries again for ever and
says Running (https://github.com/tailscale/tailscale/issues/18700). An embedded node is told by a
warning of build_patches.py; of a tailscaled, which has none yet, we read the log.
*/

// nodeNotFound is that warning's code, and a tailscaled's once it has
// https://github.com/tailscale/tailscale/pull/19606.
const nodeNotFound = "node-not-found"

// noteHealth takes in all the warnings there are.
func (s *Session) noteHealth(n ipn.Notify) {
	if n.Health == nil {
		return
	}
	if _, gone := n.Health.Warnings[nodeNotFound]; gone || s.Where == "" { // a daemon may lack the warning
		s.NoteRemoved(gone)
	}
}

// NoteRemoved takes in whether the control server does not know the node any more. One that was
// restored from a backup may know it again.
func (s *Session) NoteRemoved(gone bool) {
	s.mu.Lock()
	was := closed(s.removed)
	switch {
	case gone && !was:
		close(s.removed)
	case was && !gone:
		s.removed = make(chan struct{})
	}
	s.mu.Unlock()
	if gone && !was {
		s.Note(ipn.NoState) // what waits for the tailnet waits in vain
		bridge.Go(s.tell)
	}
}

// whenRemoved returns what is closed once the node has been removed.
func (s *Session) whenRemoved() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removed
}

// WasRemoved says that the node was removed, or returns nil where it was not.
func (s *Session) WasRemoved() error {
	if !closed(s.whenRemoved()) {
		return nil
	}
	return fault.New(fault.Auth, "node %q was removed from the tailnet by an admin; close() it, then join again with a key", s.Self.Hostname)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
