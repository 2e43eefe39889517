package testcontrol

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"

	"tailscale.com/derp/derpserver"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// startDERP serves a relay over TLS with httptest's built-in certificate, which the
// map tells clients not to verify.
func (c *Control) startDERP(logf logger.Logf) (port int, err error) {
	ln, err := net.Listen("tcp", net.JoinHostPort(localhost, "0"))
	if err != nil {
		return 0, err
	}
	c.derp = derpserver.New(key.NewNode(), logf)
	c.relay = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		derp := c.derp
		c.mu.Unlock()
		derpserver.Handler(derp).ServeHTTP(w, r)
	}))
	c.relay.Listener.Close()
	c.relay.Listener = ln
	c.relay.Config.ErrorLog = logger.StdLogger(logf)
	c.relay.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){} // DERP hijacks: no HTTP/2
	c.relay.StartTLS()
	return ln.Addr().(*net.TCPAddr).Port, nil
}

// restartRelay ends every connection to the relay, which then knows nobody.
func (c *Control) restartRelay(struct{}) error {
	c.mu.Lock()
	old := c.derp
	c.derp = derpserver.New(old.PrivateKey(), c.server.Logf)
	c.mu.Unlock()
	old.Close()
	return nil
}

func derpMap(derpPort, stunPort int) *tailcfg.DERPMap {
	return &tailcfg.DERPMap{
		OmitDefaultRegions: true,
		Regions: map[int]*tailcfg.DERPRegion{1: {
			RegionID: 1, RegionCode: "offline", RegionName: "offline",
			Nodes: []*tailcfg.DERPNode{{
				Name: "1a", RegionID: 1, HostName: localhost, IPv4: localhost, IPv6: "none",
				DERPPort: derpPort, STUNPort: stunPort, STUNTestIP: localhost,
				InsecureForTests: true,
			}},
		}},
	}
}
