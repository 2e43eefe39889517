package node

import (
	"context"
	"strings"
	"time"

	"tailscale.com/health"
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tailcfg"

	"tailnet/internal/bridge"
)

// The events of tailnet_watch.
type (
	stateEvent struct {
		Type  string `json:"type"` // "state"
		State string `json:"state"`
	}
	loginEvent struct {
		Type string `json:"type"` // "login"
		URL  string `json:"url"`
	}
	healthEvent struct {
		Type     string    `json:"type"` // "health"
		Warnings []warning `json:"warnings"`
	}
	warning struct {
		Code     string `json:"code"`
		Severity string `json:"severity"`
		Title    string `json:"title"`
		Text     string `json:"text"`
	}
	peersEvent struct {
		Type    string   `json:"type"` // "peers"
		Changed []peer   `json:"changed"`
		Removed []string `json:"removed"`
	}
	peer struct {
		ID     string   `json:"id"`
		Name   string   `json:"name"`
		IPs    []string `json:"ips"`
		Online bool     `json:"online"`
	}
	keyExpiryEvent struct {
		Type    string     `json:"type"` // "key_expiry"
		Expiry  *time.Time `json:"expiry"`
		Expired bool       `json:"expired"`
	}
)

const watchMask = ipn.NotifyInitialState | ipn.NotifyInitialHealthState | ipn.NotifyInitialStatus | ipn.NotifyPeerChanges

// watch translates the IPN bus. After a loss the reader gets a new snapshot, for
// which the bus is watched anew.
func (e *embedded) watch(stream *bridge.Stream) {
	s, err := e.running()
	if err != nil {
		return
	}
	for stream.Context().Err() == nil {
		ctx, cancel := context.WithCancel(stream.Context())
		stop := context.AfterFunc(s.ctx, cancel)
		w := watcher{stream: stream, resync: cancel, stable: map[tailcfg.NodeID]string{}}
		follow(ctx, s.local, watchMask, w.note)
		stop()
		cancel()
		if s.ctx.Err() != nil {
			return
		}
	}
}

type watcher struct {
	stream *bridge.Stream
	resync func()
	stable map[tailcfg.NodeID]string // for PeersRemoved, which has only the number
	expiry keyExpiryEvent
}

func (w *watcher) send(event any) {
	if w.stream.Send(event) {
		w.resync()
	}
}

func (w *watcher) note(n ipn.Notify) {
	if n.State != nil {
		w.send(stateEvent{"state", n.State.String()})
	}
	if n.BrowseToURL != nil && *n.BrowseToURL != "" {
		w.send(loginEvent{"login", *n.BrowseToURL})
	}
	if n.Health != nil {
		w.send(healthEvent{"health", warnings(n.Health)})
	}
	if st := n.InitialStatus; st != nil {
		w.snapshot(st)
	}
	if n.SelfChange != nil {
		w.keyExpiry(n.SelfChange.KeyExpiry)
	}
	if len(n.PeersChanged)+len(n.PeersRemoved) > 0 {
		p := peersEvent{"peers", []peer{}, []string{}}
		for _, c := range n.PeersChanged {
			w.stable[c.ID] = string(c.StableID)
			ips := []string{}
			for _, a := range c.Addresses {
				ips = append(ips, a.Addr().String())
			}
			p.Changed = append(p.Changed, peer{string(c.StableID), strings.TrimSuffix(c.Name, "."), ips, c.Online != nil && *c.Online})
		}
		for _, id := range n.PeersRemoved {
			p.Removed = append(p.Removed, w.stable[id])
			delete(w.stable, id)
		}
		w.send(p)
	}
}

func (w *watcher) snapshot(st *ipnstate.Status) {
	if st.Self != nil && st.Self.KeyExpiry != nil {
		w.keyExpiry(*st.Self.KeyExpiry)
	}
	p := peersEvent{"peers", []peer{}, []string{}}
	for _, ps := range st.Peer {
		ips := []string{}
		for _, ip := range ps.TailscaleIPs {
			ips = append(ips, ip.String())
		}
		p.Changed = append(p.Changed, peer{string(ps.ID), strings.TrimSuffix(ps.DNSName, "."), ips, ps.Online})
	}
	w.send(p)
}

func (w *watcher) keyExpiry(at time.Time) {
	e := keyExpiryEvent{Type: "key_expiry"}
	if !at.IsZero() {
		e.Expiry, e.Expired = &at, at.Before(time.Now())
	}
	same := e.Expired == w.expiry.Expired && (e.Expiry == nil) == (w.expiry.Expiry == nil) &&
		(e.Expiry == nil || e.Expiry.Equal(*w.expiry.Expiry))
	if w.expiry.Type == "" || !same {
		w.expiry = e
		w.send(e)
	}
}

func warnings(h *health.State) []warning {
	list := []warning{}
	for _, u := range h.Warnings {
		list = append(list, warning{string(u.WarnableCode), string(u.Severity), u.Title, u.Text})
	}
	return list
}
