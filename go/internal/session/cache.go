package session

import (
	"net/netip"
	"sync"

	"tailnet/internal/bridge"
)

// cache holds what a program asks again for every connection it makes: which address a name
// has, and what peers route. Any change of the network map that the bus tells of empties it,
// and makes Python forget who has an address.
type cache struct {
	mu         sync.Mutex
	generation uint64
	names      map[string]netip.Addr
	routes     []netip.Prefix // what peers have and route; nil where it is not known
}

// cacheLimit entries of each kind are kept; then the cache starts afresh.
const cacheLimit = 4096

func (c *cache) empty() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	bridge.Memory.Changed()
	c.names, c.routes = nil, nil
}

// The getters also return the generation an answer must be stored under: one that
// was asked for before a change must not be stored after it.

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

func (c *cache) routed() ([]netip.Prefix, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.routes, c.generation
}

func (c *cache) setRouted(routes []netip.Prefix, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation == c.generation {
		c.routes = routes
	}
}
