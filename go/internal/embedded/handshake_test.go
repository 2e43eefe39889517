package embedded

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tailscale/wireguard-go/conn"
	"github.com/tailscale/wireguard-go/conn/bindtest"
	"github.com/tailscale/wireguard-go/device"
	"github.com/tailscale/wireguard-go/tun/tuntest"
	"tailscale.com/types/key"
)

// nowhere notes when handshakes are begun, and loses them.
type nowhere struct {
	conn.Bind
	began chan time.Time
}

func (n nowhere) Send(packets [][]byte, _ conn.Endpoint, offset int) error {
	for _, p := range packets {
		if p[offset] == device.MessageInitiationType {
			n.began <- time.Now()
		}
	}
	return nil
}

// TestHandshakeIsRepeated: soon at first, ever more seldom then, and to somebody who is away not
// more often where more is sent. It fails where build_patches.py was not applied.
func TestHandshakeIsRepeated(t *testing.T) {
	//lint:ignore SA1019 for the wireguard-go API, which takes bytes
	theirs := device.NoisePublicKey(key.NewNode().Public().Raw32())
	for _, pause := range []time.Duration{time.Hour, 100 * time.Millisecond} { // between packets
		synctest.Test(t, func(t *testing.T) {
			bind := nowhere{bindtest.NewChannelBinds()[0], make(chan time.Time, 1000)}
			tun := tuntest.NewChannelTUN()
			d := device.NewDevice(tun.TUN(), bind, device.NewLogger(device.LogLevelSilent, ""))
			defer d.Close()
			d.SetPrivateKey(key.NewNode().Raw32())
			peer, us := netip.MustParseAddr("100.64.0.2"), netip.MustParseAddr("100.64.0.1")
			d.SetPeerByIPPacketFunc(func(_, _ netip.Addr, _ []byte) (device.NoisePublicKey, bool) {
				return theirs, true
			})
			d.SetPeerLookupFunc(func(device.NoisePublicKey) (*device.NewPeerConfig, bool) {
				return &device.NewPeerConfig{AllowedIPs: []netip.Prefix{netip.PrefixFrom(peer, 32)}, Endpoint: bindtest.ChannelEndpoint(1)}, true
			})
			if err := d.Up(); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			for time.Since(start) < 90*time.Second {
				tun.Outbound <- tuntest.Ping(peer, us)
				time.Sleep(min(pause, 90*time.Second))
			}
			synctest.Wait()
			n := len(bind.began)
			if n < 20 || n > 28 { // 18 of 5 s each without the patch
				t.Errorf("%d initiations in 90 s, with packets every %v", n, pause)
			}
			first := <-bind.began
			if after := (<-bind.began).Sub(first); after < 250*time.Millisecond || after > 350*time.Millisecond {
				t.Errorf("the first one is repeated after %v", after)
			}
			last := first
			for range n - 3 {
				last = <-bind.began
			}
			if after := (<-bind.began).Sub(last); after < 5*time.Second {
				t.Errorf("the last one is repeated after %v", after)
			}
		})
	}
}
