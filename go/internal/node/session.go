package node

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
	"tailscale.com/client/local"
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/net/tsaddr"

	"tailnet/internal/fault"
)

// A session is one life of a node as its LocalAPI shows it. What can be asked of a node
// is asked here, whether the API is tsnet's, in this process, or a tailscaled's.
type session struct {
	local *local.Client
	slow  *local.Client // for what may take its time: the bus, and names
	where string        // the socket of a daemon, which may hang; "" in this process
	self  *Identity     // nil until it has joined
	url   string        // where a person can log in, as an attempt has reported it
	cache cache
	host  host

	ctx    context.Context // ends when the node leaves
	cancel context.CancelFunc

	mu   sync.Mutex
	runs context.Context // ends when the node stops running, because its key has expired, say
	rest context.CancelFunc

	removed chan struct{} // closed while the control server does not know the node any more
}

// A host is what a session is of, and knows what the LocalAPI does not say.
type host interface {
	// whyNot says why a node that had joined does not run, or returns nil where it does.
	whyNot(ctx context.Context) error

	// whyGone says why the LocalAPI does not answer, or returns nil where it does.
	whyGone(ctx context.Context) error

	// stranger says that a status is of another node, or returns nil.
	stranger(*ipnstate.Status) error

	// offline reports whether this machine is known to have no network.
	offline() bool
}

func newSession(of host) *session {
	s := &session{host: of, removed: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// note takes in a state of the node.
func (s *session) note(state ipn.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state != ipn.Running {
		if s.rest != nil {
			s.rest()
		}
		s.cache.empty()
	} else if !closed(s.removed) && (s.runs == nil || s.runs.Err() != nil) {
		s.runs, s.rest = context.WithCancel(s.ctx)
	}
}

// whileRunning bounds an operation by the node's running. A node that does not run would
// let it wait for ever: its packets go nowhere. The error says why it does not.
func (s *session) whileRunning(ctx context.Context) (_ context.Context, done func(), err error) {
	s.mu.Lock()
	runs := s.runs
	s.mu.Unlock()
	if runs.Err() != nil {
		if err := s.host.whyNot(ctx); err != nil {
			return nil, nil, err
		}
		s.note(ipn.Running) // it runs again, and we had not heard of it yet
		s.mu.Lock()
		runs = s.runs
		s.mu.Unlock()
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(runs, cancel)
	return ctx, func() { stop(); cancel() }, nil
}

// joined takes the node for one that has joined.
func (s *session) joined(id *Identity) {
	s.self = id
	s.note(ipn.Running)
}

// identify asks who the node is.
func (s *session) identify(ctx context.Context, control string) (*Identity, *ipnstate.Status, error) {
	st, err := s.local.StatusWithoutPeers(ctx)
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

func (s *session) status(ctx context.Context) (json.RawMessage, error) {
	st, err := s.local.Status(ctx)
	if err != nil {
		return nil, s.failed(ctx, "status", err)
	}
	if err := s.host.stranger(st); err != nil {
		return nil, err
	}
	return json.Marshal(st)
}

// failed classifies what the LocalAPI did not answer.
func (s *session) failed(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if why := s.host.whyNot(ctx); why != nil {
		return why
	}
	return s.unanswered(what, err)
}

func (s *session) unanswered(what string, err error) error {
	if s.where != "" && silent(err) {
		return doesNotAnswer(s.where)
	}
	return fault.For(fault.Internal, err, "%s", what)
}

// whois answers with Tailscale's own document. Python keeps it (_node.py).
func (s *session) whois(ctx context.Context, ip netip.Addr) (json.RawMessage, error) {
	if err := s.wasRemoved(); err != nil {
		return nil, err
	}
	who, err := s.local.WhoIs(ctx, ip.String())
	nobody := errors.Is(err, local.ErrPeerNotFound)
	if s.where != "" && (err == nil || nobody) { // after the answer, or it may have become somebody else's meanwhile
		st, err := s.local.StatusWithoutPeers(ctx)
		if err != nil {
			return nil, s.failed(ctx, "whois "+ip.String(), err)
		}
		if err := s.host.stranger(st); err != nil {
			return nil, err
		}
	}
	if nobody {
		return nil, fault.New(fault.NotFound, "whois: nobody on the tailnet has the address %v; ask for the peer of a connection, or an address of status().peers", ip)
	} else if err != nil {
		return nil, s.failed(ctx, "whois "+ip.String(), err)
	}
	doc, err := json.Marshal(who)
	if err != nil {
		return nil, fault.New(fault.Internal, "whois %v: %v", ip, err)
	}
	return doc, nil
}

// resolve finds the address of a host: an IP address, or a name of the tailnet.
func (s *session) resolve(ctx context.Context, host string) (netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap(), nil
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	ip, generation := s.cache.name(name)
	if ip.IsValid() {
		return ip, nil
	}
	full := name
	if !strings.Contains(name, ".") {
		if _, suffix, ok := strings.Cut(s.self.FQDN, "."); ok {
			full = name + "." + suffix
		}
	}
	for _, kind := range []string{"A", "AAAA"} {
		answer, _, err := s.slow.QueryDNS(ctx, full+".", kind)
		if ctx.Err() != nil {
			return netip.Addr{}, ctx.Err()
		}
		if local.IsAccessDeniedError(err) { // a tailscaled answers these to root and the operator
			return s.resolveByMap(ctx, host, full, generation)
		}
		if err != nil {
			continue
		}
		if ip := firstAddr(answer); ip.IsValid() {
			if tsaddr.IsTailscaleIP(ip) { // others have lifetimes of their own
				s.cache.setName(name, ip, generation)
			}
			return ip, nil
		}
	}
	return netip.Addr{}, s.noName(ctx, host)
}

// resolveByMap finds a machine of the tailnet by its name, and no other name.
func (s *session) resolveByMap(ctx context.Context, host, full string, generation uint64) (netip.Addr, error) {
	st, err := s.local.Status(ctx)
	if err != nil {
		return netip.Addr{}, s.failed(ctx, "status", err)
	}
	for p := range maps.Values(st.Peer) {
		if strings.EqualFold(strings.TrimSuffix(p.DNSName, "."), full) && len(p.TailscaleIPs) > 0 {
			s.cache.setName(strings.ToLower(strings.TrimSuffix(host, ".")), p.TailscaleIPs[0], generation)
			return p.TailscaleIPs[0], nil
		}
	}
	if strings.EqualFold(s.self.FQDN, full) {
		return s.self.IPs[0], nil
	}
	return netip.Addr{}, s.noName(ctx, host)
}

func (s *session) noName(ctx context.Context, host string) error {
	if err := s.host.whyNot(ctx); err != nil {
		return err
	}
	return fault.New(fault.Name, "the tailnet knows no machine or name %q; status().peers has the names it knows", host)
}

func firstAddr(answer []byte) netip.Addr {
	var m dnsmessage.Message
	if m.Unpack(answer) != nil {
		return netip.Addr{}
	}
	for _, r := range m.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			return netip.AddrFrom4(b.A)
		case *dnsmessage.AAAAResource:
			return netip.AddrFrom16(b.AAAA)
		}
	}
	return netip.Addr{}
}

// addresses are this node's, for a person.
func (s *session) addresses() string {
	var text []string
	for _, own := range s.self.IPs {
		text = append(text, own.String())
	}
	return strings.Join(text, " and ")
}

// ownAddr reports whether ip is an address of this node.
func (s *session) ownAddr(ip netip.Addr) bool {
	for _, own := range s.self.IPs {
		if own == ip {
			return true
		}
	}
	return false
}
