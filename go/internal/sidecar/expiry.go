package sidecar

import (
	"cmp"

	"tailscale.com/ipn"
	"tailscale.com/net/netmon"
	"tailscale.com/net/tsdial"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
	"tailscale.com/util/eventbus"

	"tailnet/internal/bridge"
	"tailnet/internal/session"
	"tailnet/internal/state"
)

// awaitExtension has a child go on with its old node key, if the admin extends that before a person
// has logged the node in.
func (l *life) awaitExtension(keys *state.Keys) {
	if l.awaits {
		return
	}
	l.awaits = true
	bridge.Go(func() {
		bus := eventbus.New()
		defer bus.Close()
		dialer := tsdial.NewDialer(netmon.NewStatic())
		dialer.Logf = logger.Discard
		dialer.SetBus(bus)
		defer dialer.Close()
		old := session.Expired{
			Keys:       keys,
			ControlURL: cmp.Or(keys.Prefs().ControlURL, ipn.DefaultControlURL),
			LogDir:     l.cfg.StateDir,
			Dialer:     dialer,
			Disco:      key.NewDisco().Public(), // for this poll; the daemon tells its own when it is back
		}
		if old.AwaitExtension(l.Ctx, l.cfg, l.log) {
			l.Local.Start(l.Ctx, ipn.Options{})
		}
	})
}
