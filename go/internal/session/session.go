// Package session is one life of a node as its LocalAPI shows it, whether that is tsnet's, in this
// process, or a tailscaled's: how it joins, what it can be asked, and what it tells by itself. It
// does not know its backend but as a Host.
//
// Read session.go, client.go, await.go and classify.go (joining), naming.go and tags.go; bus.go,
// watch.go, removed.go and cache.go (what it tells); names.go, dialing.go, listening.go and ping.go
// (what it is asked).
package session

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"tailscale.com/client/local"
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnstate"

	"tailnet/internal/bridge"
	"tailnet/internal/fault"
	"tailnet/internal/logs"
)

// Identity is what control assigned; the reply of tailnet_node_up.
type Identity struct {
	Hostname string       `json:"hostname"`
	FQDN     string       `json:"fqdn"`
	IPs      []netip.Addr `json:"ips"`
}

// A Session is one life of a node as its LocalAPI shows it. What can be asked of a node
// is asked here, whether the API is tsnet's, in this process, or a tailscaled's.
type Session struct {
	Local *local.Client
	Slow  *local.Client // for what may take its time: the bus, and names
	Where string        // the socket of a daemon, which may hang; "" in this process
	Self  *Identity     // nil until it has joined
	URL   string        // where a person can log in, as an attempt has reported it
	cache cache
	host  Host

	Ctx    context.Context // ends when the node leaves
	Cancel context.CancelFunc

	capturing atomic.Bool

	mu   sync.Mutex
	runs context.Context // ends when the node stops running, because its key has expired, say
	rest context.CancelFunc

	removed chan struct{} // closed while the control server does not know the node any more
}

// A Host is what a session is of, and knows what the LocalAPI does not say.
type Host interface {
	// WhyNot says why a node that had joined does not run, or returns nil where it does.
	WhyNot(ctx context.Context) error

	// WhyGone says why the LocalAPI does not answer, or returns nil where it does.
	WhyGone(ctx context.Context) error

	// Stranger says that a status is of another node, or returns nil.
	Stranger(*ipnstate.Status) error

	// Offline reports whether this machine is known to have no network.
	Offline() bool

	// Logger returns the node's.
	Logger() *logs.Logger
}

// New returns the session of a node that has not joined yet.
func New(of Host) *Session {
	s := &Session{host: of, removed: make(chan struct{})}
	s.Ctx, s.Cancel = context.WithCancel(context.Background())
	return s
}

// Note takes in a state of the node.
func (s *Session) Note(state ipn.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state != ipn.Running {
		if state == ipn.NeedsLogin && s.runs != nil && s.runs.Err() == nil {
			bridge.Go(s.tell)
		}
		if s.rest != nil {
			s.rest()
		}
		s.cache.empty()
	} else if !closed(s.removed) && (s.runs == nil || s.runs.Err() != nil) {
		s.runs, s.rest = context.WithCancel(s.Ctx)
	}
}

// tell logs why a node that ran has stopped: a program that waits in accept() makes no call whose
// error would say so.
func (s *Session) tell() {
	if err := s.host.WhyNot(s.Ctx); err != nil && s.Ctx.Err() == nil {
		s.host.Logger().At("warning")("%s", fault.Of(err).Message)
	}
}

// WhileRunning bounds an operation by the node's running. A node that does not run would
// let it wait for ever: its packets go nowhere. The error says why it does not.
func (s *Session) WhileRunning(ctx context.Context) (_ context.Context, done func(), err error) {
	s.mu.Lock()
	runs := s.runs
	s.mu.Unlock()
	if runs.Err() != nil {
		if err := s.host.WhyNot(ctx); err != nil {
			return nil, nil, err
		}
		s.Note(ipn.Running) // it runs again, and we had not heard of it yet
		s.mu.Lock()
		runs = s.runs
		s.mu.Unlock()
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(runs, cancel)
	return ctx, func() { stop(); cancel() }, nil
}

// Joined takes the node for one that has joined.
func (s *Session) Joined(id *Identity) {
	s.Self = id
	s.Note(ipn.Running)
}

// Identify asks who the node is.
func (s *Session) Identify(ctx context.Context, control string) (*Identity, *ipnstate.Status, error) {
	st, err := s.Local.StatusWithoutPeers(ctx)
	if err != nil {
		return nil, nil, s.unanswered("status", err)
	}
	if len(st.TailscaleIPs) == 0 || st.Self == nil {
		return nil, nil, fault.New(fault.Connect, "%s let the node in but gave it no address", control)
	}
	fqdn := strings.TrimSuffix(st.Self.DNSName, ".")
	hostname, _, _ := strings.Cut(fqdn, ".")
	if hostname == "" { // MagicDNS is off
		hostname = st.Self.HostName
	}
	return &Identity{Hostname: hostname, FQDN: fqdn, IPs: st.TailscaleIPs}, st, nil
}

// Status answers with Tailscale's own document, of the node and all its peers.
func (s *Session) Status(ctx context.Context) (json.RawMessage, error) {
	st, err := s.Local.Status(ctx)
	if err != nil {
		return nil, s.Failed(ctx, "status", err)
	}
	if err := s.host.Stranger(st); err != nil {
		return nil, err
	}
	return json.Marshal(st)
}

// Failed classifies what the LocalAPI did not answer.
func (s *Session) Failed(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if why := s.host.WhyNot(ctx); why != nil {
		return why
	}
	return s.unanswered(what, err)
}

func (s *Session) unanswered(what string, err error) error {
	if s.Where != "" && Silent(err) {
		return DoesNotAnswer(s.Where)
	}
	return fault.For(fault.Internal, err, "%s", what)
}

// Whois answers with Tailscale's own document. Python caches it (_node/asking.py).
func (s *Session) Whois(ctx context.Context, ip netip.Addr) (json.RawMessage, error) {
	if err := s.WasRemoved(); err != nil {
		return nil, err
	}
	who, err := s.Local.WhoIs(ctx, ip.String())
	nobody := errors.Is(err, local.ErrPeerNotFound)
	if s.Where != "" && (err == nil || nobody) { // after the answer, or it may have become somebody else's meanwhile
		st, err := s.Local.StatusWithoutPeers(ctx)
		if err != nil {
			return nil, s.Failed(ctx, "whois "+ip.String(), err)
		}
		if err := s.host.Stranger(st); err != nil {
			return nil, err
		}
	}
	if nobody {
		return nil, fault.New(fault.NotFound, "whois: nobody on the tailnet has the address %v; ask for the peer of a connection, or an address of status().peers", ip)
	} else if err != nil {
		return nil, s.Failed(ctx, "whois "+ip.String(), err)
	}
	doc, err := json.Marshal(who)
	if err != nil {
		return nil, fault.New(fault.Internal, "whois %v: %v", ip, err)
	}
	return doc, nil
}
