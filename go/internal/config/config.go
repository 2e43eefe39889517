// Package config is what a node is made of: the JSON of tailnet_node_new, addresses, and the
// settings that a whole process shares.
//
// Read config.go, address.go, process.go and families_linux.go.
package config

import (
	"net/netip"
	"net/url"
	"strings"
	"time"

	"tailnet/internal/fault"
	"tailnet/internal/logs"
	"tailnet/internal/strict"
)

// Config is the JSON of tailnet_node_new. Python has validated it and resolved every
// environment variable and file behind it: nothing here is read from anywhere else.
type Config struct {
	Backend          string   `json:"backend"`
	Hostname         string   `json:"hostname"`
	RequireHostname  bool     `json:"require_hostname"` // another name is an error
	AuthKey          string   `json:"auth_key"`
	ClientSecret     string   `json:"client_secret"`
	Tags             []string `json:"tags"`
	ControlURL       string   `json:"control_url"` // "" is Tailscale's
	StateDir         string   `json:"state_dir"`   // "" keeps the state in memory: ephemeral nodes only
	TrustStateDir    bool     `json:"trust_state_dir"`
	Ephemeral        bool     `json:"ephemeral"`
	Port             uint16   `json:"port"` // UDP; 0 picks one
	AcceptRoutes     bool     `json:"accept_routes"`
	ExitNode         string   `json:"exit_node"`
	AdvertiseRoutes  []string `json:"advertise_routes"`
	ConnectTimeout   float64  `json:"connect_timeout"` // seconds without news before an attempt fails
	AllowHostNetwork bool     `json:"allow_host_network"`
	LogLevel         string   `json:"log_level"`

	TailscaledSocket  string `json:"tailscaled_socket"`
	TailscaledManaged bool   `json:"tailscaled_managed"`
	TailscaledPath    string `json:"tailscaled_path"`

	Process Process `json:"process"`

	Routes []netip.Prefix
}

// Parse checks what must hold for the rest of the package to be safe.
func Parse(b []byte) (*Config, error) {
	c := &Config{Backend: "embedded", ConnectTimeout: 10, LogLevel: "info"}
	if err := strict.Unmarshal(b, c); err != nil {
		return nil, err
	}
	for _, r := range c.AdvertiseRoutes {
		p, err := netip.ParsePrefix(r)
		if err != nil {
			return nil, fault.New(fault.Config, "advertise_routes: %v", err)
		}
		c.Routes = append(c.Routes, p.Masked())
	}
	switch {
	case c.Hostname == "":
		return nil, fault.New(fault.Config, "hostname: must not be empty")
	case c.Backend == "embedded" && c.StateDir == "" && !c.Ephemeral:
		return nil, fault.New(fault.Config, "state_dir: needed by a node that is not ephemeral")
	case !(c.ConnectTimeout > 0 && c.ConnectTimeout <= 86400):
		return nil, fault.New(fault.Config, "connect_timeout: must be more than 0 seconds, and at most a day")
	}
	if _, err := url.Parse(c.ControlURL); err != nil {
		return nil, fault.New(fault.Config, "control_url: cannot be parsed")
	}
	if _, ok := logs.Levels[c.LogLevel]; !ok {
		return nil, fault.New(fault.Config, "log_level: %q is none of debug, info, warning, error", c.LogLevel)
	}
	return c, nil
}

// Timeout is connect_timeout.
func (c *Config) Timeout() time.Duration {
	return time.Duration(c.ConnectTimeout * float64(time.Second))
}

// Logger returns the node's logger.
func (c *Config) Logger() *logs.Logger {
	return logs.New(c.Hostname, c.LogLevel, c.AuthKey, c.ClientSecret)
}

// ControlName is the control server in messages.
func (c *Config) ControlName() string {
	if c.ControlURL == "" {
		return "Tailscale's control server"
	}
	return "control server " + c.ControlURL
}

/*
An OAuth client secret makes auth keys, through Tailscale's API. One is made where a node turns
out to need it, and at no other time: a node that has joined before comes back without the API.
*/

// oauthSecret begins what `tailscale up` and tsnet take for a client secret, and tailscaled
// itself does not (feature/oauthkey).
const oauthSecret = "tskey-client-"

// Key is what the node was given to log in with: an auth key, or a client secret.
func (c *Config) Key() string {
	if c.AuthKey != "" {
		return c.AuthKey
	}
	return c.ClientSecret
}

// HasSecret reports whether the key is an OAuth client secret, of which a key is to be made.
func (c *Config) HasSecret() bool { return strings.HasPrefix(c.Key(), oauthSecret) }
