package session

import (
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/health"
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tailcfg"

	"tailnet/internal/bridge"
)

// Events are what "watch" sends: each names its type.
var Events = []any{stateEvent{}, loginEvent{}, healthEvent{}, peersEvent{}, keyExpiryEvent{}, removedEvent{}}

type (
	stateEvent struct {
		Type  string `json:"type" doc:"\"state\""`
		State string `json:"state" doc:"as in Status.state"`
	}
	loginEvent struct {
		Type string `json:"type" doc:"\"login\""`
		URL  string `json:"url" doc:"where a person must log in"`
	}
	healthEvent struct {
		Type     string    `json:"type" doc:"\"health\""`
		Warnings []warning `json:"warnings" doc:"all there are now: code, severity, title and text of each"`
	}
	warning struct {
		Code     string `json:"code"`
		Severity string `json:"severity"`
		Title    string `json:"title"`
		Text     string `json:"text"`
	}
	peersEvent struct {
		Type    string   `json:"type" doc:"\"peers\""`
		Changed []peer   `json:"changed" doc:"new or different: id, name, ips and online of each"`
		Removed []string `json:"removed" doc:"the stable ids of those that left"`
	}
	peer struct {
		ID     string       `json:"id"`
		Name   string       `json:"name"`
		IPs    []netip.Addr `json:"ips"`
		Online bool         `json:"online"`
	}
	keyExpiryEvent struct {
		Type    string     `json:"type" doc:"\"key_expiry\""`
		Expiry  *time.Time `json:"expiry" doc:"when this node's key expires; null for never"`
		Expired bool       `json:"expired" doc:"whether it has"`
	}
	removedEvent struct {
		Type string `json:"type" doc:"\"removed\": an admin has removed this node from the tailnet"`
	}
)

const watchMask = ipn.NotifyInitialState | ipn.NotifyInitialHealthState | ipn.NotifyInitialStatus | ipn.NotifyPeerChanges

type watcher struct {
	stream *bridge.Stream
	local  *local.Client
	resync func()
	state  string                    // as sent last: a bus that is taken up again begins with it
	ids    map[tailcfg.NodeID]string // PeersRemoved has only the number
	peers  map[string]peer           // as sent last: control may repeat a whole tailnet for one change
	expiry keyExpiryEvent

	sending sync.Mutex // the bus and a removal are heard apart
}

func newWatcher(stream *bridge.Stream, lc *local.Client, resync func()) *watcher {
	return &watcher{stream: stream, local: lc, resync: resync, ids: map[tailcfg.NodeID]string{}, peers: map[string]peer{}}
}

// lost says that there is nobody to say more: a tailscaled is gone.
func (w *watcher) lost() { w.cameTo(ipn.NoState) }

func (w *watcher) cameTo(state ipn.State) {
	if now := state.String(); now != w.state {
		w.state = now
		w.send(stateEvent{"state", now})
	}
}

func (w *watcher) send(event any) {
	w.sending.Lock()
	defer w.sending.Unlock()
	if w.stream.Send(event) {
		w.resync()
	}
}

func (w *watcher) note(n ipn.Notify) {
	if n.State != nil {
		w.cameTo(*n.State)
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
	p := peersEvent{"peers", []peer{}, []string{}}
	for _, c := range n.PeersChanged {
		now := peer{string(c.StableID), strings.TrimSuffix(c.Name, "."), []netip.Addr{}, c.Online != nil && *c.Online}
		for _, a := range c.Addresses {
			now.IPs = append(now.IPs, a.Addr())
		}
		w.ids[c.ID] = now.ID
		if !reflect.DeepEqual(w.peers[now.ID], now) {
			w.peers[now.ID] = now
			p.Changed = append(p.Changed, now)
		}
	}
	for _, id := range n.PeersRemoved {
		if _, known := w.ids[id]; !known { // seen in the snapshot only, which lacks the number
			p.Removed = append(p.Removed, w.missing()...)
			break
		}
		p.Removed = append(p.Removed, w.ids[id])
		delete(w.peers, w.ids[id])
		delete(w.ids, id)
	}
	if len(p.Changed)+len(p.Removed) > 0 {
		w.send(p)
	}
}

// missing forgets and returns the peers that are on the tailnet no more.
func (w *watcher) missing() (gone []string) {
	st, err := w.local.Status(w.stream.Context())
	if err != nil {
		return nil
	}
	still := map[string]bool{}
	for _, ps := range st.Peer {
		still[string(ps.ID)] = true
	}
	for id := range w.peers {
		if !still[id] {
			gone = append(gone, id)
			delete(w.peers, id)
		}
	}
	return gone
}

func (w *watcher) snapshot(st *ipnstate.Status) {
	var expiry time.Time // never
	if st.Self != nil && st.Self.KeyExpiry != nil {
		expiry = *st.Self.KeyExpiry
	}
	w.keyExpiry(expiry)
	p := peersEvent{"peers", []peer{}, []string{}}
	before := w.peers // not empty where a bus that was gone is back
	w.peers = map[string]peer{}
	for _, ps := range st.Peer {
		now := peer{string(ps.ID), strings.TrimSuffix(ps.DNSName, "."), ps.TailscaleIPs, ps.Online}
		w.peers[now.ID] = now
		p.Changed = append(p.Changed, now)
	}
	for id := range before {
		if _, still := w.peers[id]; !still {
			p.Removed = append(p.Removed, id)
		}
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
