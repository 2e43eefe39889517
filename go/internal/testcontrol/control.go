// Package testcontrol is an offline tailnet: Tailscale's own in-memory control server
// (tstest/integration/testcontrol), a DERP relay and a STUN server, all on 127.0.0.1.
// The control server is used as it is. Around it are an HTTP layer of ours, where
// faults are put (front.go), and what a person, an admin or a broken network does to a tailnet: the
// operations of do.go, each in the file of its subject (people.go, keys.go, nodes.go, policy.go,
// relay.go, front.go).
//
// tailnet.testing runs it in a child process, because it cannot be trusted to share
// one: it panics on what it does not know. What it cannot model is said in
// tailnet.testing too.
package testcontrol

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"time"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stunserver"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"

	"tailnet/internal/fault"
	"tailnet/internal/strict"
)

const localhost = "127.0.0.1"

// Config is the JSON of tailnet_testcontrol_start.
type Config struct {
	AuthKey         string `json:"auth_key"`         // the one reusable key; "" lets everybody in
	RequireLogin    bool   `json:"require_login"`    // each node waits for complete_login; keys are not looked at
	RequireApproval bool   `json:"require_approval"` // each new node waits for approve
	Domain          string `json:"domain"`           // MagicDNS suffix
	SameUser        bool   `json:"same_user"`        // one user owns every node, instead of one each
	Port            int    `json:"port"`             // of the control server; 0 picks one
	Verbose         bool   `json:"verbose"`          // log to stderr

	TellPeersAfter float64 `json:"tell_peers_after"` // seconds, at the least, from a change to its being told

	NodeAttrs []tailcfg.NodeCapability `json:"node_attrs"` // given to every node, beside the usual ones
}

// Control is a running offline tailnet.
type Control struct {
	config Config
	server *testcontrol.Server
	front  *front
	relay  *httptest.Server
	lying  *httptest.Server // the front over TLS, with a certificate that nobody trusts
	derp   *derpserver.Server
	info   map[string]any
	end    context.CancelFunc

	// The server replaces a node whole when it is told to change one. Map requests
	// that bring news of a node hold this for reading, so that none comes between
	// our reading a node and writing it back.
	edit sync.RWMutex

	mu      sync.Mutex
	polls   map[key.NodePublic]int  // streaming map requests open now
	met     map[key.NodePublic]bool // node keys that have polled
	lastIP4 int                     // of fake nodes
	keys    keys
}

// Start opens the servers; the answer to Info is final when it returns.
func Start(config []byte) (_ *Control, err error) {
	c := &Control{
		config: Config{Domain: "offline.ts.net"},
		polls:  map[key.NodePublic]int{},
		met:    map[key.NodePublic]bool{},
		keys:   keys{used: map[string]bool{}, requested: map[key.NodePublic][]string{}, left: map[key.NodePublic]bool{}},
	}
	if err := strict.Unmarshal(config, &c.config); err != nil {
		return nil, err
	}
	if c.config.RequireLogin {
		// With a key set, the server refuses nodes without one before it thinks of logins.
		c.config.AuthKey = ""
	}
	c.config.Domain = strings.Trim(c.config.Domain, ".")
	logf := logger.Discard
	if c.config.Verbose {
		logf = log.New(os.Stderr, "testcontrol: ", log.LstdFlags|log.Lmicroseconds).Printf
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.end = cancel
	defer func() {
		if err != nil {
			c.Close()
		}
	}()

	derpPort, err := c.startDERP(logf)
	if err != nil {
		return nil, fault.For(fault.Config, err, "no DERP relay")
	}
	stun := stunserver.New(ctx)
	if err := stun.Listen(net.JoinHostPort(localhost, "0")); err != nil {
		return nil, fault.For(fault.Config, err, "no STUN server")
	}
	go stun.Serve()
	stunPort := stun.LocalAddr().(*net.UDPAddr).Port

	c.front, err = newFront(net.JoinHostPort(localhost, fmt.Sprint(c.config.Port)), logf)
	if err != nil {
		return nil, fault.For(fault.Config, err, "no control server")
	}
	c.server = &testcontrol.Server{
		Logf:               logf,
		Verbose:            c.config.Verbose,
		ExplicitBaseURL:    c.front.url(),
		RequireAuth:        c.config.RequireLogin,
		RequireMachineAuth: c.config.RequireApproval,
		MagicDNSDomain:     c.config.Domain,
		AllNodesSameUser:   c.config.SameUser,
		DNSConfig:          &tailcfg.DNSConfig{Proxied: true, Domains: []string{c.config.Domain}},
		DERPMap:            derpMap(derpPort, stunPort),
		// Without it clients skip the fast ways to find a peer again that restarted;
		// the price is that peers look online for ever.
		AllOnline: true,
		// Not nil: nodes get the tags they ask for.
		TagOwners:              map[string][]string{},
		HoldMapRequest:         c.mapRequest,
		MaybeRateLimitRegister: c.front.registration,
		ModifyFirstMapResponse: c.front.order,
		CheckRegister:          c.register,
	}
	if len(c.config.NodeAttrs) > 0 {
		caps := tailcfg.NodeCapMap{}
		// What the server gives where it is not told (serveRegister).
		usual := []tailcfg.NodeCapability{tailcfg.CapabilityHTTPS, tailcfg.NodeAttrFunnel, tailcfg.CapabilityFileSharing,
			tailcfg.CapabilityFunnelPorts + "?ports=8080,443"}
		for _, attr := range append(usual, c.config.NodeAttrs...) {
			caps[attr] = nil
		}
		c.server.DefaultNodeCapabilities = &caps
	}
	if late := time.Duration(c.config.TellPeersAfter * float64(time.Second)); late > 0 {
		c.server.HoldMapResponse = func(ctx context.Context) {
			select {
			case <-ctx.Done():
			case <-time.After(late):
			}
		}
	}
	c.lying = httptest.NewUnstartedServer(c.front)
	c.lying.Config.ErrorLog = logger.StdLogger(logf)
	c.lying.StartTLS()
	c.info = map[string]any{
		"url": c.front.url(), "untrusted_url": c.lying.URL, "pid": os.Getpid(), "domain": c.config.Domain,
	}
	c.front.serve(c.server)
	return c, nil
}

// Info is what a client needs to know: url, untrusted_url, domain and pid.
func (c *Control) Info() map[string]any { return c.info }

// Close ends the servers. Nodes see an outage, not an end of the tailnet.
func (c *Control) Close() error {
	c.end()
	if c.front != nil {
		c.front.close()
	}
	if c.lying != nil {
		c.lying.CloseClientConnections()
		c.lying.Close()
	}
	if c.derp != nil {
		c.derp.Close()
		c.relay.CloseClientConnections()
		c.relay.Close()
	}
	return nil
}

// mapRequest is called before each map request; what it returns, after it.
func (c *Control) mapRequest(req *tailcfg.MapRequest) (done func()) {
	k := req.NodeKey
	c.grant(k)
	c.front.holdMap()
	if !req.Stream {
		c.edit.RLock()
		return c.edit.RUnlock
	}
	c.mu.Lock()
	fresh := !c.met[k]
	c.met[k] = true
	c.polls[k]++
	c.mu.Unlock()
	if fresh {
		c.welcome(k)
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.polls[k]--; c.polls[k] == 0 {
			delete(c.polls, k)
		}
	}
}
