package testcontrol

import (
	"context"
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
	"tailnet/internal/strict"
)

// keyLifetime is what extend_keys gives: Tailscale's default, 180 days
// (https://tailscale.com/kb/1028/key-expiry).
const keyLifetime = 180 * 24 * time.Hour

// maxFakeNodes is how many addresses 100.65.0.0/16 has for them; real nodes are
// numbered in 100.64.0.0/16.
const maxFakeNodes = 1<<16 - 1

// args are the arguments of every operation; each uses those its case names.
type args struct {
	Do    string `json:"do"`
	Node  string `json:"node"`
	Key   string `json:"key"`
	URL   string `json:"url"`
	Value bool   `json:"value"`
	Count int    `json:"count"`

	Tags *[]string          `json:"tags"`
	Caps tailcfg.PeerCapMap `json:"caps"`

	Fault
}

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

// Do is what a person, an admin or a broken network does to the tailnet.
func (c *Control) Do(_ context.Context, document []byte) (any, error) {
	var a args
	if err := strict.Unmarshal(document, &a); err != nil {
		return nil, err
	}
	switch a.Do {
	case "nodes":
		return c.nodes(), nil
	case "complete_login": // url
		if !c.server.CompleteAuth(a.URL) {
			return nil, fault.New(fault.Config, "complete_login: %q is no login URL of this control server", a.URL)
		}
		return nil, nil
	case "approve": // node, or all
		return nil, c.each(a.Node, func(n *tailcfg.Node) error {
			if !c.server.CompleteDeviceApproval(c.front.url(), c.front.url()+"/admin", &n.Key) {
				return fault.New(fault.Config, "approve: node %s is gone", n.Name)
			}
			return nil
		})
	case "set_require_login": // value; read by the server at the next registration
		if a.Value && c.config.AuthKey != "" {
			return nil, fault.New(fault.Config, "set_require_login: this control server was started with an auth key, "+
				"so it refuses nodes without one; start it with require_login")
		}
		c.server.RequireAuth = a.Value
		return nil, nil
	case "set_require_approval": // value; likewise
		c.server.RequireMachineAuth = a.Value
		return nil, nil
	case "expire_keys": // node, or all
		return nil, c.change(a.Node, func(n *tailcfg.Node) { n.KeyExpiry = time.Now().Add(-time.Minute).UTC() })
	case "extend_keys": // node, or all
		return nil, c.change(a.Node, func(n *tailcfg.Node) { n.KeyExpiry = time.Now().Add(keyLifetime).UTC() })
	case "update_node": // node, tags
		if a.Node == "" {
			return nil, fault.New(fault.Config, "update_node: name the node")
		}
		return nil, c.change(a.Node, func(n *tailcfg.Node) {
			if a.Tags != nil {
				n.Tags = *a.Tags
			}
		})
	case "remove_node": // node
		if a.Node == "" {
			return nil, fault.New(fault.Config, "remove_node: name the node")
		}
		return nil, c.each(a.Node, func(n *tailcfg.Node) error {
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
	case "add_one_time_key": // key
		if c.config.AuthKey == "" {
			return nil, fault.New(fault.Config, "add_one_time_key: this control server lets everybody in; start it with an auth_key")
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.keys.used[a.Key] = false
		return nil, nil
	case "set_grantable_tags": // tags
		c.mu.Lock()
		defer c.mu.Unlock()
		c.keys.grantable = a.Tags
		return nil, nil
	case "add_fake_nodes": // count
		return nil, c.addFakeNodes(a.Count)
	case "edit_policy": // node, caps: the packet filter and nothing else, as control sends an edited policy
		return nil, c.each(a.Node, func(n *tailcfg.Node) error {
			everyone := tailcfg.FilterRule{SrcIPs: []string{"*"}, DstPorts: []tailcfg.NetPortRange{{IP: "*", Ports: tailcfg.PortRangeAny}}}
			granted := tailcfg.FilterRule{SrcIPs: []string{"*"}, CapGrant: []tailcfg.CapGrant{{
				Dsts: []netip.Prefix{tsaddr.AllIPv4(), tsaddr.AllIPv6()}, CapMap: a.Caps}}}
			if !c.server.AddRawMapResponse(n.Key, &tailcfg.MapResponse{PacketFilters: map[string][]tailcfg.FilterRule{"base": {everyone, granted}}}) {
				return fault.New(fault.Config, "edit_policy: node %s is not connected", n.Name)
			}
			return nil
		})
	case "set_app_caps": // caps
		c.server.SetGlobalAppCaps(a.Caps)
		return nil, nil
	case "restart_relay":
		c.restartRelay()
		return nil, nil
	case "fault": // kind, status, retry_after, message
		return nil, c.front.set(a.Fault)
	}
	return nil, fault.New(fault.Config, "unknown operation %q", a.Do)
}

func (c *Control) nodes() []Node {
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
	return nodes
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

// addFakeNodes adds peers that exist in the network map only. testcontrol's own fake
// nodes have no name and any address of the internet.
func (c *Control) addFakeNodes(count int) error {
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
