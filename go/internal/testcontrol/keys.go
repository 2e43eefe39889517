package testcontrol

import (
	"fmt"
	"slices"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"tailnet/internal/fault"
)

// keys decides who may register, as Tailscale's control server and headscale do: a node that the
// server knows needs no auth key until its node key expires; any other one needs the reusable
// key, or one for one use that nobody has used.
type keys struct {
	used      map[string]bool             // the one-time keys: whether each was used
	left      map[key.NodePublic]bool     // whether each has logged out
	requested map[key.NodePublic][]string // tags that a registration has asked for, until granted
	grantable *[]string                   // the only tags that may be asked for; nil: any
}

// register is called for each registration. It returns why that is refused, or "".
func (c *Control) register(machine key.MachinePublic, req *tailcfg.RegisterRequest) string {
	if refusal := c.front.refusal(); refusal != "" {
		return refusal
	}
	leaves := !req.Expiry.IsZero() && req.Expiry.Before(time.Now()) // how a node logs out
	c.mu.Lock()
	c.keys.left[req.NodeKey] = leaves
	c.mu.Unlock()
	if n := c.server.Node(req.NodeKey); n != nil && n.Machine == machine {
		return ""
	}
	var tags []string
	if req.Hostinfo != nil {
		tags = req.Hostinfo.RequestTags
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, tag := range tags {
		if c.keys.grantable != nil && !slices.Contains(*c.keys.grantable, tag) {
			return fmt.Sprintf("requested tags [%s] are invalid or not permitted", tag) // Tailscale's words
		}
	}
	given := ""
	if req.Auth != nil {
		given = req.Auth.AuthKey
	}
	used, oneTime := c.keys.used[given]
	switch {
	case c.config.AuthKey == "" || given == c.config.AuthKey:
	case !oneTime:
		return "invalid authkey"
	case used:
		return "authkey already used" // headscale's words
	default:
		c.keys.used[given] = true
	}
	c.keys.requested[req.NodeKey] = slices.Clone(tags)
	return ""
}

// grant gives a node key that is used for the first time the tags that its registration asked
// for, and no expiry. testcontrol does so for new nodes only: a node key that replaces another
// has the tags and the expiry of that one.
func (c *Control) grant(k key.NodePublic) {
	c.mu.Lock()
	tags, registered := c.keys.requested[k]
	delete(c.keys.requested, k)
	c.mu.Unlock()
	if !registered {
		return
	}
	c.edit.Lock()
	defer c.edit.Unlock()
	n := c.server.Node(k)
	if n == nil || slices.Equal(n.Tags, tags) && n.KeyExpiry.IsZero() {
		return
	}
	n.Tags, n.KeyExpiry = tags, time.Time{}
	hostinfo := n.Hostinfo.AsStruct()
	hostinfo.RequestTags = tags // or the next request would look like one for other tags
	n.Hostinfo = hostinfo.View()
	c.server.UpdateNode(n)
}

// hasLeft reports whether a node has logged out, as ephemeral ones do when they end. testcontrol
// never forgets a node; Tailscale's control server does then, where it was an ephemeral one.
func (c *Control) hasLeft(k key.NodePublic) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keys.left[k]
}

// keyLifetime is what extendKeys gives: Tailscale's default, 180 days
// (https://tailscale.com/kb/1028/key-expiry).
const keyLifetime = 180 * 24 * time.Hour

func (c *Control) expireKeys(a which) error {
	return c.change(a.Node, func(n *tailcfg.Node) { n.KeyExpiry = time.Now().Add(-time.Minute).UTC() })
}

func (c *Control) extendKeys(a which) error {
	return c.change(a.Node, func(n *tailcfg.Node) { n.KeyExpiry = time.Now().Add(keyLifetime).UTC() })
}

func isExpired(n *tailcfg.Node) bool {
	return !n.KeyExpiry.IsZero() && n.KeyExpiry.Before(time.Now())
}

type oneTimeKey struct {
	Key string `json:"key"`
}

func (c *Control) addOneTimeKey(a oneTimeKey) error {
	if c.config.AuthKey == "" {
		return fault.New(fault.Config, "add_one_time_key: this control server lets everybody in; start it with an auth_key")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys.used[a.Key] = false
	return nil
}

type grantable struct {
	Tags *[]string `json:"tags"` // null grants any
}

func (c *Control) setGrantableTags(a grantable) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys.grantable = a.Tags
	return nil
}
