package testcontrol

import (
	"tailscale.com/tailcfg"

	"tailnet/internal/fault"
)

// login is a URL that a node waits at for a person.
type login struct {
	URL string `json:"url"`
}

func (c *Control) completeLogin(a login) error {
	if !c.server.CompleteAuth(a.URL) {
		return fault.New(fault.Config, "complete_login: %q is no login URL of this control server", a.URL)
	}
	return nil
}

func (c *Control) approve(a which) error {
	return c.each(a.Node, func(n *tailcfg.Node) error {
		if !c.server.CompleteDeviceApproval(c.front.url(), c.front.url()+"/admin", &n.Key) {
			return fault.New(fault.Config, "approve: node %s is gone", n.Name)
		}
		return nil
	})
}

// requirement is read by the server at the next registration.
type requirement struct {
	Value bool `json:"value"`
}

func (c *Control) setRequireLogin(a requirement) error {
	if a.Value && c.config.AuthKey != "" {
		return fault.New(fault.Config, "set_require_login: this control server was started with an auth key, "+
			"so it refuses nodes without one; start it with require_login")
	}
	c.server.RequireAuth = a.Value
	return nil
}

func (c *Control) setRequireApproval(a requirement) error {
	c.server.RequireMachineAuth = a.Value
	return nil
}
