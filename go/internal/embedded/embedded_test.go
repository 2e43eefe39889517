package embedded

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
	"tailscale.com/feature"
	"tailscale.com/ipn/ipnext"
	"tailscale.com/wgengine/netstack"

	"tailnet/internal/bridge"
	"tailnet/internal/fault"
	"tailnet/internal/session"
)

// TestWhatIsLinkedIn: tsnet by itself has neither.
func TestWhatIsLinkedIn(t *testing.T) {
	if !feature.IsRegistered("capture") {
		t.Error("no packet capture")
	}
	for e := range ipnext.Extensions() {
		if e.Name() == "taildrop" {
			return
		}
	}
	t.Error("no Taildrop")
}

// TestReach fails when an upgrade moves what far.go reaches for.
func TestReach(t *testing.T) {
	if endpointOffset == 0 || queueOffset == 0 {
		t.Fatal("gonet.TCPConn has no fields ep and wq of the types of this version")
	}
	ep, wq := new(tcp.Endpoint), new(waiter.Queue)
	c := gonet.NewTCPConn(wq, ep)
	if got := *at[tcpip.Endpoint](c, endpointOffset); got != ep {
		t.Errorf("found %v in its place", got)
	}
	if got := *at[*waiter.Queue](c, queueOffset); got != wq {
		t.Errorf("found %v in its place", got)
	}
	if _, ok := outbound(new(netstack.Impl)); !ok {
		t.Error("netstack.Impl has no field linkEP with a ReadContext")
	}
	if cancel, pump := inject(new(netstack.Impl)); cancel == nil || pump == nil {
		t.Error("netstack.Impl has no ctxCancel and injectWG of the types of this version")
	}
	if field[*stack.Stack](new(netstack.Impl), "ipstack") == nil {
		t.Error("netstack.Impl has no ipstack of the type of this version")
	}
}

func TestPortsOverlapAsTheKernelHasIt(t *testing.T) {
	v4, v6 := netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("fd7a:115c:a1e0::1")
	any4 := netip.IPv4Unspecified()
	var p ports
	a, b := new(bridge.Acceptor), new(bridge.Acceptor)
	add := func(ip netip.Addr, a *bridge.Acceptor) error { _, err := p.add(port{ip, 80}, a); return err }
	if err := add(v4, a); err != nil {
		t.Fatal(err)
	}
	if err := add(v6, b); err != nil {
		t.Fatal(err)
	}
	for _, ip := range []netip.Addr{v4, any4, {}} {
		if err := add(ip, b); !fault.Is(err, fault.AddressInUse) {
			t.Errorf("a second listener on %v: %v", ip, err)
		}
	}
	if p.at(netip.AddrPortFrom(v4, 80), true) != a || p.at(netip.AddrPortFrom(v6, 80), true) != b {
		t.Error("a connection goes to the wrong listener")
	}
	p.remove(port{v4, 80})
	if err := add(any4, b); err != nil {
		t.Error(err)
	}
	if n, err := p.add(port{}, a); err != nil || n != session.FirstAny {
		t.Errorf("any port: %d, %v", n, err)
	}
}
