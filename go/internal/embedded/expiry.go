package embedded

import (
	"context"
	"path/filepath"
	"time"

	"tailscale.com/control/controlclient"
	"tailscale.com/health"
	"tailscale.com/hostinfo"
	"tailscale.com/ipn"
	"tailscale.com/logpolicy"
	"tailscale.com/types/key"
	"tailscale.com/types/netmap"
	"tailscale.com/types/persist"
	"tailscale.com/util/eventbus"

	"tailnet/internal/bridge"
	"tailnet/internal/config"
)

/*
A node whose key has expired registers with a new one, and waits for a person. Where the admin
extends the old key instead, tsnet never hears of it: it asks for the new key alone. So we poll the
network map with the old key meanwhile, as a node does whose key expires while it runs; the server
tells at once, and the person's login stays as it is until then.
*/

// Control may be away while a person is awaited; it is asked again after these.
const (
	firstAgain = time.Second
	lastAgain  = 30 * time.Second
)

// awaitExtension goes on with the old node key, if the admin extends it before a person has
// logged the node in. It does so once in the server's life: should the server not let the old
// key in after all, it is the person's turn.
func (s *server) awaitExtension(c *config.Config) {
	old := s.keys.Prefs().Persist
	if s.awaiting || s.retags || old == nil || old.PrivateNodeKey.IsZero() {
		return
	}
	s.awaiting = true
	bridge.Go(func() {
		if s.untilExtended(c, old) {
			s.Local.Start(s.Ctx, ipn.Options{})
		}
	})
}

// untilExtended reports whether the key has been extended; false is that the server has ended.
func (s *server) untilExtended(c *config.Config, old *persist.Persist) bool {
	bus := eventbus.New()
	defer bus.Close()
	sys := s.ts.Sys()
	info := hostinfo.New()
	info.Hostname, info.RequestTags = c.Hostname, c.Tags
	if logs, err := logpolicy.ConfigFromFile(filepath.Join(s.ts.Dir, "tailscaled.log.conf")); err == nil {
		info.BackendLogID = logs.PublicID.String() // which a registration must have
	}
	client, err := controlclient.NewDirect(controlclient.Options{
		Persist:              *old,
		GetMachinePrivateKey: func() (key.MachinePrivate, error) { return s.keys.Machine, nil },
		ServerURL:            s.keys.Prefs().ControlURLOrDefault(sys.PolicyClientOrDefault()),
		Hostinfo:             info,
		DiscoPublicKey:       sys.MagicSock.Get().DiscoPublicKey(),
		Logf:                 s.log.At("debug"),
		HealthTracker:        health.NewTracker(bus), // what this poll meets is not the node's health
		Dialer:               sys.Dialer.Get(),
		Bus:                  bus,
	})
	if err != nil {
		s.log.At("warning")("cannot ask whether the node key is extended: %v", err)
		return false
	}
	defer client.Close()
	for pause := firstAgain; ; pause = min(2*pause, lastAgain) {
		extended, err := admitted(s.Ctx, client)
		if extended || s.Ctx.Err() != nil {
			return extended
		}
		s.log.At("debug")("poll with the expired node key: %v", err)
		select {
		case <-s.Ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

// admitted waits until the node is let in with its key, for as long as the server's answer lasts.
func admitted(ctx context.Context, client *controlclient.Direct) (bool, error) {
	if yes, err := client.Admitted(ctx); yes || err != nil {
		return yes, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e := &extension{heard: cancel}
	err := client.PollNetMap(ctx, e)
	return e.yes, err
}

// extension hears the network maps of a node whose key had expired.
type extension struct {
	heard context.CancelFunc
	yes   bool
}

func (e *extension) UpdateFullNetmap(nm *netmap.NetworkMap) {
	if expiry := nm.SelfKeyExpiry(); expiry.IsZero() || expiry.After(time.Now()) {
		e.yes = true
		e.heard()
	}
}
