package node

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"sync"

	"tailscale.com/client/local"
	"tailscale.com/ipn"

	"tailnet/internal/fault"
)

// cache holds what a server asks again for every connection: who has an address,
// which address a name has. Any change of the network map empties it, so an answer
// is never older than the map.
type cache struct {
	mu         sync.Mutex
	generation uint64
	people     map[netip.Addr]json.RawMessage
	names      map[string]netip.Addr
}

// cacheLimit entries of each kind are kept; then the cache starts afresh.
const cacheLimit = 4096

// follow empties the cache at every change until ctx ends; onState hears of each state.
func (c *cache) follow(ctx context.Context, lc *local.Client, onState func(ipn.State)) {
	follow(ctx, lc, ipn.NotifyInitialState|ipn.NotifyPeerChanges, func(n ipn.Notify) {
		if n.State != nil {
			onState(*n.State)
		}
		if n.State != nil || n.SelfChange != nil || len(n.PeersChanged)+len(n.PeersRemoved)+len(n.UserProfiles) > 0 || n.Prefs != nil {
			c.empty()
		}
	})
	c.empty()
}

func (c *cache) empty() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	c.people, c.names = nil, nil
}

// The getters also return the generation an answer must be stored under: one that
// was asked for before a change must not be stored after it.

func (c *cache) person(ip netip.Addr) (json.RawMessage, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.people[ip], c.generation
}

func (c *cache) setPerson(ip netip.Addr, doc json.RawMessage, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.generation {
		return
	}
	if c.people == nil || len(c.people) >= cacheLimit {
		c.people = map[netip.Addr]json.RawMessage{}
	}
	c.people[ip] = doc
}

func (c *cache) name(name string) (netip.Addr, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.names[name], c.generation
}

func (c *cache) setName(name string, ip netip.Addr, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.generation {
		return
	}
	if c.names == nil || len(c.names) >= cacheLimit {
		c.names = map[string]netip.Addr{}
	}
	c.names[name] = ip
}

// whois answers with Tailscale's own document.
func (e *embedded) whois(ctx context.Context, addr string, mayWait bool) (json.RawMessage, error) {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		ap, err := netip.ParseAddrPort(addr)
		if err != nil {
			return nil, fault.New(fault.Config, "whois: %q is neither an IP address nor ip:port", addr)
		}
		ip = ap.Addr()
	}
	ip = ip.Unmap()
	doc, generation := e.cache.person(ip)
	if doc != nil || !mayWait {
		return doc, nil
	}
	s, err := e.running()
	if err != nil {
		return nil, err
	}
	who, err := s.local.WhoIs(ctx, ip.String())
	switch {
	case errors.Is(err, local.ErrPeerNotFound):
		return nil, fault.New(fault.NotFound, "whois: nobody on the tailnet has the address %v", ip)
	case err != nil && ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, fault.New(fault.Internal, "whois %v: %v", ip, err)
	}
	if doc, err = json.Marshal(who); err != nil {
		return nil, fault.New(fault.Internal, "whois %v: %v", ip, err)
	}
	e.cache.setPerson(ip, doc, generation)
	return doc, nil
}
