package node

import (
	"bufio"
	"context"
	"io"
	"strings"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/ipn"

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

// removedWords are in the log of a daemon whose node was removed (control/controlclient, direct.go).
const removedWords = "initial fetch failed 404"

// noteHealth takes in all the warnings there are.
func (s *session) noteHealth(n ipn.Notify) {
	if n.Health == nil {
		return
	}
	if _, gone := n.Health.Warnings[nodeNotFound]; gone || s.where == "" { // a daemon may lack the warning
		s.noteRemoved(gone)
	}
}

// noteRemoved takes in whether the control server does not know the node any more. One that was
// restored from a backup may know it again.
func (s *session) noteRemoved(gone bool) {
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
		s.note(ipn.NoState) // what waits for the tailnet waits in vain
	}
}

// whenRemoved returns what is closed once the node has been removed.
func (s *session) whenRemoved() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removed
}

// wasRemoved says that the node was removed, or returns nil where it was not.
func (s *session) wasRemoved() error {
	if !closed(s.whenRemoved()) {
		return nil
	}
	return fault.New(fault.Auth, "node %q was removed from the tailnet by an admin; close() it, then join again with a key", s.self.Hostname)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// hearLog listens to the daemon's log for as long as the session lasts. The daemon permits that to
// root and its operator; for anybody else a removed node stays Running.
func (l *life) hearLog() {
	for l.ctx.Err() == nil {
		lines, err := l.slow.TailDaemonLogs(l.ctx)
		if local.IsAccessDeniedError(err) {
			return
		}
		if err == nil {
			l.readLog(lines)
		}
		select { // it restarts, perhaps
		case <-l.ctx.Done():
		case <-time.After(lastPause):
		}
	}
}

func (l *life) readLog(log io.Reader) {
	if c, ok := log.(io.Closer); ok {
		defer c.Close()
		defer context.AfterFunc(l.ctx, func() { c.Close() })()
	}
	for lines := bufio.NewReaderSize(log, 1<<16); ; {
		line, _, err := lines.ReadLine() // of longer lines, a part each
		if err != nil {
			return
		}
		if strings.Contains(string(line), removedWords) {
			l.noteRemoved(true)
		}
	}
}
