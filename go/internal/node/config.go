// Package node is a node of a tailnet: its configuration, how it joins and leaves,
// and what it can be asked. Backends differ (embedded.go, sidecar.go); the
// rest does not know which it has.
//
// Read config.go, node.go, session.go, bus.go, cache.go and watch.go for what every node has;
// embedded.go, statedir.go, up.go, classify.go, then listen.go, dial.go and far.go for the life of a
// connection in this process; sidecar.go, localapi.go, joining.go, serve.go, through.go,
// tun.go and child.go for that through a tailscaled.
package node

import (
	"bytes"
	"encoding/json"
	"io"
	"net/netip"
	"net/url"
	"time"

	"tailnet/internal/fault"
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

	routes []netip.Prefix
}

// ParseConfig checks what must hold for the rest of the package to be safe.
func ParseConfig(b []byte) (*Config, error) {
	c := &Config{Backend: "embedded", ConnectTimeout: 10, LogLevel: "info"}
	if err := Unmarshal(b, c); err != nil {
		return nil, err
	}
	for _, r := range c.AdvertiseRoutes {
		p, err := netip.ParsePrefix(r)
		if err != nil {
			return nil, fault.New(fault.Config, "advertise_routes: %v", err)
		}
		c.routes = append(c.routes, p.Masked())
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
	if _, ok := levels[c.LogLevel]; !ok {
		return nil, fault.New(fault.Config, "log_level: %q is none of debug, info, warning, error", c.LogLevel)
	}
	return c, nil
}

func (c *Config) connectTimeout() time.Duration {
	return time.Duration(c.ConnectTimeout * float64(time.Second))
}

// logger returns the node's logger.
func (c *Config) logger() *logger {
	return newLogger(c.Hostname, c.LogLevel, c.AuthKey, c.ClientSecret)
}

// controlName is the control server in messages.
func (c *Config) controlName() string {
	if c.ControlURL == "" {
		return "Tailscale's control server"
	}
	return "control server " + c.ControlURL
}

// Unmarshal decodes an argument of the contract, strictly.
func Unmarshal(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if !bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) { // "null" would decode, into nothing
		return fault.New(fault.Argument, "arguments are not the JSON expected: want an object")
	}
	if err := d.Decode(into); err != nil {
		return fault.New(fault.Argument, "arguments are not the JSON expected: %v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fault.New(fault.Argument, "arguments hold more than one JSON document")
	}
	return nil
}
