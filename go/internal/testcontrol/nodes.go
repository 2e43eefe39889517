package testcontrol

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"tailnet/internal/fault"
)

// Node is how nodes are reported.
type Node struct {
	ID        string       `json:"id"`
	Key       string       `json:"key"`
	Name      string       `json:"name"`     // fully qualified, without the last dot
	Hostname  string       `json:"hostname"` // the first label of Name
	IPs       []netip.Addr `json:"ips"`
	Login     string       `json:"login"`
	Tags      []string     `json:"tags"`
	Online    bool         `json:"online"` // has its long poll open now
	Expired   bool         `json:"expired"`
	Approved  bool         `json:"approved"`
	KeyExpiry *time.Time   `json:"key_expiry"`
}

// report lists the nodes that have neither logged out nor been removed.
func (c *Control) report(struct{}) ([]Node, error) {
	logins := c.logins()
	nodes := []Node{}
	for _, n := range c.server.AllNodes() {
		if c.hasLeft(n.Key) {
			continue
		}
		v := Node{
			ID: string(n.StableID), Key: n.Key.String(), Name: strings.TrimSuffix(n.Name, "."), IPs: []netip.Addr{},
			Login: logins[n.User], Tags: append([]string{}, n.Tags...),
			Online: c.online(n.Key), Expired: isExpired(n), Approved: n.MachineAuthorized,
		}
		v.Hostname, _, _ = strings.Cut(v.Name, ".")
		for _, p := range n.Addresses {
			v.IPs = append(v.IPs, p.Addr())
		}
		if !n.KeyExpiry.IsZero() {
			v.KeyExpiry = &n.KeyExpiry
		}
		nodes = append(nodes, v)
	}
	return nodes, nil
}

// logins asks the server for a network map, the one place where it tells its users.
func (c *Control) logins() map[tailcfg.UserID]string {
	logins := map[tailcfg.UserID]string{}
	for _, n := range c.server.AllNodes() {
		m, err := c.server.MapResponse(&tailcfg.MapRequest{NodeKey: n.Key})
		if err != nil || m == nil {
			continue
		}
		for _, u := range m.UserProfiles {
			logins[u.ID] = u.LoginName
		}
		break
	}
	return logins
}

// each calls f for the node with that name, hostname, id or key; for every node if
// which is empty.
func (c *Control) each(which string, f func(*tailcfg.Node) error) error {
	found := false
	for _, n := range c.server.AllNodes() {
		name := strings.TrimSuffix(n.Name, ".")
		host, _, _ := strings.Cut(name, ".")
		if which == "" || slices.Contains([]string{name, host, string(n.StableID), n.Key.String()}, which) {
			found = true
			if err := f(n); err != nil {
				return err
			}
		}
	}
	if !found && which != "" {
		return fault.New(fault.Config, "no node %q on this tailnet", which)
	}
	return nil
}

// change edits nodes and tells every node of the tailnet.
func (c *Control) change(which string, edit func(*tailcfg.Node)) error {
	c.edit.Lock()
	defer c.edit.Unlock()
	return c.each(which, func(n *tailcfg.Node) error {
		edit(n)
		c.server.UpdateNode(n)
		return nil
	})
}

// which names a node by its name, hostname, id or key; "" is every node.
type which struct {
	Node string `json:"node"`
}

type tagged struct {
	which
	Tags []string `json:"tags"`
}

func (c *Control) setTags(a tagged) error {
	return c.change(a.Node, func(n *tailcfg.Node) { n.Tags = a.Tags })
}

func (c *Control) removeNode(a which) error {
	if a.Node == "" {
		return fault.New(fault.Config, "remove_node: name the node")
	}
	return c.each(a.Node, func(n *tailcfg.Node) error {
		c.edit.Lock()
		defer c.edit.Unlock()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.met, n.Key)
		others := maps.Clone(c.polls)
		delete(others, n.Key)
		c.server.RemoveNode(n.Key, slices.Collect(maps.Keys(others)))
		return nil
	})
}

// maxFakeNodes is how many addresses 100.65.0.0/16 has for them; real nodes are
// numbered in 100.64.0.0/16.
const maxFakeNodes = 1<<16 - 1

type fakeNodes struct {
	Count int `json:"count"`
}

// addFakeNodes adds peers that exist in the network map only. testcontrol's own fake
// nodes have no name and any address of the internet.
func (c *Control) addFakeNodes(a fakeNodes) error {
	count := a.Count
	if c.server.NumNodes() == 0 { // testcontrol would panic
		return fault.New(fault.Config, "add_fake_nodes: join a node of your own first")
	}
	c.mu.Lock()
	first := c.lastIP4 + 1
	if count < 0 || count > maxFakeNodes-c.lastIP4 {
		c.mu.Unlock()
		return fault.New(fault.Config, "add_fake_nodes: %d more than the %d there are: want 0 to %d in all", count, c.lastIP4, maxFakeNodes)
	}
	c.lastIP4 += count
	c.mu.Unlock()
	c.edit.Lock()
	defer c.edit.Unlock()
	for i := first; i < first+count; i++ {
		v4 := netip.AddrFrom4([4]byte{100, 65, byte(i >> 8), byte(i)})
		addrs := []netip.Prefix{netip.PrefixFrom(v4, 32), netip.PrefixFrom(tsaddr.Tailscale4To6(v4), 128)}
		host := fmt.Sprintf("fake-%d", i)
		c.server.UpdateNode(&tailcfg.Node{
			ID:       tailcfg.NodeID(1<<32 + i), // testcontrol counts its own from 1
			StableID: tailcfg.StableNodeID(fmt.Sprintf("FAKE%08x", i)),
			Name:     host + "." + c.config.Domain + ".",
			Key:      key.NewNode().Public(), Machine: key.NewMachine().Public(), DiscoKey: key.NewDisco().Public(),
			Addresses: addrs, AllowedIPs: addrs, MachineAuthorized: true,
			Hostinfo: (&tailcfg.Hostinfo{Hostname: host, OS: "linux"}).View(),
		})
	}
	return nil
}

// welcome gives the node of a node key that is used for the first time a unique name, as
// Tailscale's control server does and testcontrol does not.
func (c *Control) welcome(k key.NodePublic) {
	c.edit.Lock()
	defer c.edit.Unlock()
	self := c.server.Node(k)
	if self == nil {
		return
	}
	taken := map[string]*tailcfg.Node{}
	for _, n := range c.server.AllNodes() {
		if n.ID != self.ID {
			taken[n.Name] = n
		}
	}
	host, suffix, _ := strings.Cut(self.Name, ".")
	name := self.Name
	for i := 1; taken[name] != nil; i++ {
		if old := taken[name]; c.gone(old.Key) {
			// testcontrol never forgets a node. One that is gone must not keep its
			// name from the next run of the same service.
			old.Name = fmt.Sprintf("%s-gone-%d.%s", host, old.ID, suffix)
			c.server.UpdateNode(old)
			break
		}
		name = fmt.Sprintf("%s-%d.%s", host, i, suffix)
	}
	if name != self.Name {
		self.Name = name
		c.server.UpdateNode(self)
	}
}

func (c *Control) online(k key.NodePublic) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.polls[k] > 0
}

// gone reports whether a node was connected once and no longer is. One that has only
// registered so far is about to connect.
func (c *Control) gone(k key.NodePublic) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.met[k] && c.polls[k] == 0
}
