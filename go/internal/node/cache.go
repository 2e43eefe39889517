package node

import (
	"encoding/json"
	"net/netip"
	"sync"

	"tailnet/internal/bridge"
)

// cache holds what a server asks again for every connection: who has an address,
// which address a name has. Any change of the network map that the bus tells of empties
// it. A change of the packet filter alone, and so of somebody's capabilities, is not told
// (LocalBackend.UpdatePacketFilter): who has an address is forgotten every second as well.
type cache struct {
	mu         sync.Mutex
	generation uint64
	second     int64 // in which people were stored
	people     map[netip.Addr]json.RawMessage
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
	c.people, c.names, c.routes = nil, nil, nil
}

// The getters also return the generation an answer must be stored under: one that
// was asked for before a change must not be stored after it.

func (c *cache) person(ip netip.Addr) (json.RawMessage, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := bridge.Second(); now != c.second {
		c.people, c.second = nil, now
	}
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
