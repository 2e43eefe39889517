package session

import (
	"context"
	"strings"
	"time"

	"tailscale.com/ipn"

	"tailnet/internal/bridge"
)

// Follow calls f with every notification until the session ends, and keeps the state and
// the cache in step. lost is called when the bus is gone.
func (s *Session) Follow(f func(ipn.Notify), lost func()) {
	s.watchBus(s.Ctx, ipn.NotifyInitialState|ipn.NotifyInitialHealthState|ipn.NotifyPeerChanges, func(n ipn.Notify) {
		s.noteHealth(n)
		if n.State != nil && (s.Where == "" || *n.State != ipn.Running) { // or it may be another's: f looks
			s.Note(*n.State)
		}
		if n.State != nil || n.SelfChange != nil || len(n.PeersChanged)+len(n.PeersRemoved)+len(n.UserProfiles) > 0 || n.Prefs != nil {
			s.cache.empty()
		}
		f(n)
	}, lost)
	s.cache.empty()
}

// watchBus calls f with every notification until ctx ends. A watch that ends before is taken
// up again, with a new snapshot: the bus cuts off who falls behind, and a tailscaled those
// whose serve configuration somebody resets. lost is called once each time when there is no
// bus any more.
func (s *Session) watchBus(ctx context.Context, mask ipn.NotifyWatchOpt, f func(ipn.Notify), lost func()) {
	here := true
	for pause := firstPause; ; pause = min(2*pause, LastPause) {
		watching, end := context.WithCancel(ctx)
		if s.Where != "" {
			bridge.Go(func() { s.attend(watching, end) })
		}
		w, err := s.Slow.WatchIPNBus(watching, mask)
		cut := false
		for err == nil {
			var n ipn.Notify
			if n, err = w.Next(); err == nil {
				here, pause = true, firstPause
				if cut = fellBehind(n); !cut {
					f(n)
				}
			}
		}
		s.cache.empty() // what changes now is not heard
		ended := watching.Err() != nil
		end()
		if here && (w == nil || ended) && ctx.Err() == nil {
			here = false
			lost()
		}
		if w != nil {
			w.Close()
			if !cut && !ended && pause == firstPause && ctx.Err() == nil { // is it there still? Who asks meanwhile should hear it
				pause++
				continue
			}
		}
		select { // not at once: the backend may be going away
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// Between two tries to get at a bus that is gone. A tailscaled that restarts is away for
// about a second.
const firstPause, LastPause = 50 * time.Millisecond, 400 * time.Millisecond

// attend ends a watch of a daemon that does not answer any more. The bus has nothing to say
// for hours, so that its silence tells nothing.
func (s *Session) attend(watching context.Context, end func()) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case <-watching.Done():
			return
		case <-tick.C:
		}
		if _, err := s.Local.StatusWithoutPeers(watching); Silent(err) {
			end()
		}
	}
}

func fellBehind(n ipn.Notify) bool {
	return n.ErrMessage != nil && strings.Contains(*n.ErrMessage, "IPN bus consumer fell behind")
}

// Watch translates the IPN bus. After a loss the reader gets a new snapshot, for
// which the bus is watched anew.
func (s *Session) Watch(stream *bridge.Stream) {
	for stream.Context().Err() == nil {
		ctx, cancel := context.WithCancel(stream.Context())
		stop := context.AfterFunc(s.Ctx, cancel)
		w := newWatcher(stream, s.Local, cancel)
		bridge.Go(func() {
			select {
			case <-s.whenRemoved():
				w.send(removedEvent{"removed"})
			case <-ctx.Done():
			}
		})
		s.watchBus(ctx, watchMask, w.note, func() { s.Note(ipn.NoState); w.lost() })
		stop()
		cancel()
		if s.Ctx.Err() != nil {
			return
		}
	}
}
