package session

import (
	"context"
	"path/filepath"
	"time"

	"tailscale.com/control/controlclient"
	"tailscale.com/health"
	"tailscale.com/hostinfo"
	"tailscale.com/logpolicy"
	"tailscale.com/net/tsdial"
	"tailscale.com/types/key"
	"tailscale.com/types/netmap"
	"tailscale.com/util/eventbus"

	"tailnet/internal/config"
	"tailnet/internal/fault"
	"tailnet/internal/logs"
	"tailnet/internal/state"
)

/*
A node whose key has expired registers with a new one, and waits for a person. Where the admin
extends the old key instead, Tailscale's code never hears of it: it asks for the new key alone. So
we poll the network map with the old key meanwhile, as a node does whose key expires while it runs;
the server tells at once, and the person's login stays as it is until then.
*/

// Control may be away while a person is awaited; it is asked again after these.
const (
	firstAgain = time.Second
	lastAgain  = 30 * time.Second
)

// Expired is a node whose key has expired, as the control server has known it.
type Expired struct {
	Keys       *state.Keys // with the old key
	ControlURL string
	LogDir     string // where its log's identity is, which a registration must have
	Dialer     *tsdial.Dialer
	Disco      key.DiscoPublic
}

// Explain says why a node that has joined before must log in.
func Explain(err error) error {
	f := *fault.Of(err)
	f.Message += "; it has joined before, so its node key has expired, or an admin has removed it"
	return &f
}

// AwaitExtension reports whether the admin has extended the key; false is that ctx has ended.
func (x Expired) AwaitExtension(ctx context.Context, c *config.Config, log *logs.Logger) bool {
	bus := eventbus.New()
	defer bus.Close()
	info := hostinfo.New()
	info.Hostname, info.RequestTags = c.Hostname, c.Tags
	if logs, err := logpolicy.ConfigFromFile(filepath.Join(x.LogDir, "tailscaled.log.conf")); err == nil {
		info.BackendLogID = logs.PublicID.String()
	}
	client, err := controlclient.NewDirect(controlclient.Options{
		Persist:              *x.Keys.Prefs().Persist,
		GetMachinePrivateKey: func() (key.MachinePrivate, error) { return x.Keys.Machine, nil },
		ServerURL:            x.ControlURL,
		Hostinfo:             info,
		DiscoPublicKey:       x.Disco,
		Logf:                 log.At("debug"),
		HealthTracker:        health.NewTracker(bus), // what this poll meets is not the node's health
		Dialer:               x.Dialer,
		Bus:                  bus,
	})
	if err != nil {
		log.At("warning")("cannot ask whether the node key is extended: %v", err)
		return false
	}
	defer client.Close()
	for pause := firstAgain; ; pause = min(2*pause, lastAgain) {
		extended, err := admitted(ctx, client)
		if extended || ctx.Err() != nil {
			return extended
		}
		log.At("debug")("poll with the expired node key: %v", err)
		select {
		case <-ctx.Done():
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
