package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tailcfg"

	"tailnet/internal/fault"
)

// PingArgs are those of "ping".
type PingArgs struct {
	Target string `json:"target" doc:"a peer's IP address, or its name on the tailnet"`
	Kind   string `json:"kind" doc:"\"disco\", \"tsmp\", \"icmp\" or \"peerapi\""`
	Size   int    `json:"size" doc:"bytes of the packet that a disco ping is padded to; 0 pads nothing"`
}

// Ping is the answer of "ping".
type Ping struct {
	IP       netip.Addr `json:"ip" doc:"the address that was pinged"`
	Name     string     `json:"name" doc:"the peer's name, as its own node gives it"`
	Latency  float64    `json:"latency" doc:"seconds of the round trip"`
	Endpoint string     `json:"endpoint" doc:"the \"ip:port\" that answered a disco ping directly; else \"\""`
	Relay    string     `json:"relay" doc:"the code of the DERP region, or the address of the peer relay, that carried a disco ping; else \"\""`
	URL      string     `json:"url" doc:"of the peer's API, for kind \"peerapi\"; else \"\""`
}

// Pings are the kinds of ping, by the names that `tailscale ping` has for them.
var Pings = map[string]tailcfg.PingType{
	"disco": tailcfg.PingDisco, "tsmp": tailcfg.PingTSMP, "icmp": tailcfg.PingICMP, "peerapi": tailcfg.PingPeerAPI,
}

// pingAgain is the time after which an unanswered ping is sent again. A packet may get lost,
// and Tailscale's code sends one packet for each question.
const pingAgain = time.Second

// Ping sends one ping, of size bytes where that is more than the least, and waits for its answer.
func (s *Session) Ping(ctx context.Context, target string, kind tailcfg.PingType, size int) (*Ping, error) {
	running, done, err := s.WhileRunning(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	ip, err := s.Resolve(running, target)
	if err != nil {
		return nil, err
	}
	for {
		once, cancel := context.WithTimeout(running, pingAgain)
		r, err := s.Slow.PingWithOpts(once, ip, kind, local.PingOpts{Size: size})
		again := once.Err() != nil && running.Err() == nil
		cancel()
		switch {
		case err == nil && (r.Err != "" || r.IsLocalIP):
			return nil, pingError(target, ip, r)
		case err == nil:
			return &Ping{IP: ip, Name: strings.TrimSuffix(r.NodeName, "."), Latency: r.LatencySeconds, Endpoint: r.Endpoint,
				Relay: cmp.Or(r.PeerRelay, r.DERPRegionCode), URL: r.PeerAPIURL}, nil
		case !again:
			return nil, s.Failed(ctx, "ping", err)
		}
	}
}

func pingError(target string, ip netip.Addr, r *ipnstate.PingResult) error {
	if r.IsLocalIP {
		return fault.New(fault.Config, "ping: %s is this node itself; ping a peer", target)
	}
	if target != ip.String() {
		target = fmt.Sprintf("%s (%v)", target, ip)
	}
	f := fault.For(fault.Unreachable, errors.New(r.Err), "cannot ping %s", target)
	if f.Code == fault.Unreachable {
		f.Errno = int(syscall.EHOSTUNREACH)
		f.Message += "; status().peers has the peers that this node sees"
	}
	return f
}
