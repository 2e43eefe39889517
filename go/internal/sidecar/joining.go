package sidecar

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/types/key"

	"tailnet/internal/fault"
	"tailnet/internal/proxied"
	"tailnet/internal/session"
	"tailnet/internal/state"
)

/*
How a daemon joins: probe finds out what it is, hopeless and sameControl refuse what cannot work,
and login or resume tells the daemon what the configuration says.
*/

// join makes sure that the daemon runs, that we may talk to it, and that it is logged in.
func (l *life) join(ctx context.Context, args session.UpArgs) (_ *session.Identity, err error) {
	st, prefs, err := l.probe(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.sameControl(prefs); err != nil {
		return nil, err
	}
	if l.child == nil && st.Self != nil { // the name of the node is the daemon's
		c := *l.cfg
		c.Hostname = cmp.Or(prefs.Hostname, st.Self.HostName, c.Hostname)
		l.cfg, l.log = &c, l.log.Of(c.Hostname)
	}
	var had []string
	var oldKey key.NodePublic // where a child of ours is to register anew, for other tags
	if l.child != nil {
		had = state.JoinedTags(l.cfg, prefs.AdvertiseTags)
		if !session.SameTags(had, l.cfg.Tags) {
			oldKey = l.nodeKey()
		}
	}
	renews := !oldKey.IsZero()
	if renews {
		defer func() { err = session.OtherTags(l.cfg, err, had) }()
	}
	if renews || st.BackendState != ipn.Running.String() {
		if err := l.hopeless(st.BackendState); err != nil {
			return nil, err
		}
		var login, again func(context.Context) error
		if l.cfg.Key() != "" {
			again = func(ctx context.Context) error { return l.login(ctx, prefs) }
		}
		stuck := st.BackendState == ipn.NoState.String() && l.cfg.Key() != ""
		if l.begun.Load() {
			// By an attempt that was given up. A second login would have another node key, and use
			// the auth key again.
		} else if renews || stuck || st.BackendState == ipn.NeedsLogin.String() && l.URL == "" {
			login = func(ctx context.Context) error { return l.login(ctx, prefs) }
		} else if l.child != nil && l.URL == "" {
			if err := l.resume(ctx, prefs); err != nil {
				return nil, err
			}
		}
		if err := l.AwaitRunning(ctx, l.cfg, l.log, args, login, again); err != nil {
			return nil, err
		}
	}
	id, st, err := l.Identify(ctx, l.cfg.ControlName())
	if err != nil {
		return nil, err
	}
	if l.child != nil {
		if l.child.before.Undoing, err = l.Named(ctx, l.cfg, id, l.child.before.Machine, l.log); err != nil {
			return nil, err
		}
		if err := l.CheckTags(ctx, l.cfg, l.log, st, oldKey); err != nil {
			return nil, err
		}
		state.KeepTags(l.cfg)
	}
	l.tun, l.node = st.TUN, string(st.Self.ID)
	if l.child != nil {
		// netstack.go, acceptTCP and acceptUDP. Shields up would refuse our entries too: the packet
		// filter comes before them.
		l.log.At("warning")("a tailscaled in userspace mode hands everything that the tailnet's rules let through to 127.0.0.1: " +
			"peers reach what any program of this machine has there, with and without listen(). Let the rules allow only the ports that this program " +
			"listens on, or use backend=\"embedded\", which refuses the others")
	}
	l.serve.init(l.Session, l.log)
	return id, nil
}

// nodeKey returns the one that a child has joined with; zero where it has not, or keeps none.
func (l *life) nodeKey() (none key.NodePublic) {
	keys := l.keys()
	if keys == nil || keys.NodeKey().IsZero() {
		return none
	}
	return keys.NodeKey().Public()
}

// keys returns those that a child keeps; nil where it keeps none, or the daemon is not ours.
func (l *life) keys() *state.Keys {
	if l.child == nil || l.cfg.Ephemeral || l.cfg.StateDir == "" {
		return nil
	}
	keys, err := state.ReadKeys(l.log.At("debug"), l.cfg.StateDir)
	if err != nil {
		return nil
	}
	return keys
}

// probe asks the daemon for its state and its preferences, and whose it is. A child, which
// has just been started, may take as long as an attempt.
func (l *life) probe(ctx context.Context) (st *ipnstate.Status, prefs *ipn.Prefs, err error) {
	limit := session.ProbeLimit
	if l.child != nil {
		limit = l.cfg.Timeout()
	}
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		if st, err = l.Local.StatusWithoutPeers(within); err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		if l.child == nil || within.Err() != nil || l.child.ended() != nil {
			return nil, nil, l.absent(err)
		}
		select {
		case <-within.Done():
		case <-l.child.done:
		case <-time.After(session.Poll):
		}
	}
	if st.Version == "" {
		return nil, nil, l.absent(errors.New("its status has no version"))
	}
	if prefs, err = l.Local.GetPrefs(within); err != nil {
		return nil, nil, l.absent(err)
	}
	c, err := session.DialDaemon(within, l.Local)
	if err != nil {
		return nil, nil, l.absent(err)
	}
	defer c.Close()
	l.process.Store(daemonOf(c))
	if u, ok := c.(*net.UnixConn); ok {
		if l.uid, err = proxied.PeerUID(u); err != nil {
			return nil, nil, err
		}
	}
	if l.child != nil || l.cfg.Key() != "" {
		st, err = l.settled(ctx, st)
	}
	return st, prefs, err
}

// settled gives a daemon that is in NoState a moment to make up its mind: one that knows the
// tailnet already logs in by itself, and a second login would cut that short. But control may
// want the key again, or have refused another one, and then it goes nowhere.
func (l *life) settled(ctx context.Context, st *ipnstate.Status) (_ *ipnstate.Status, err error) {
	for began := time.Now(); st.BackendState == ipn.NoState.String() && time.Since(began) < session.Grace; {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(session.Poll):
		}
		if st, err = l.Local.StatusWithoutPeers(ctx); err != nil {
			return nil, l.absent(err)
		}
	}
	return st, nil
}

// hopeless says what must be done where waiting will not help, or returns nil.
func (l *life) hopeless(state string) error {
	switch {
	case state == ipn.Stopped.String() && l.child == nil:
		return fault.New(fault.NotRunning, "tailscaled at %s is stopped; run: sudo tailscale up", l.Where)
	case state == ipn.NeedsLogin.String() && l.child == nil && l.cfg.Key() == "":
		return l.loggedOut()
	case state == ipn.InUseOtherUser.String():
		return fault.New(fault.NotRunning, "tailscaled at %s is in use by another user of this machine", l.Where)
	}
	return nil
}

// sameControl: a daemon that is on another tailnet than the configuration says is a mistake.
func (l *life) sameControl(prefs *ipn.Prefs) error {
	has, want := cmp.Or(prefs.ControlURL, ipn.DefaultControlURL), l.cfg.ControlURL
	if want == "" || l.child != nil || !prefs.WantRunning || strings.TrimSuffix(has, "/") == strings.TrimSuffix(want, "/") {
		return nil
	}
	return fault.New(fault.Config, "control_url: is %s, but tailscaled at %s uses %s; leave it out, or name the other tailscaled by tailscaled_socket",
		want, l.Where, has)
}

// login does what `tailscale up --auth-key` does. A daemon that is not ours keeps its
// other preferences.
func (l *life) login(ctx context.Context, prefs *ipn.Prefs) error {
	if l.cfg.HasSecret() || l.cfg.AuthKey == "" && l.cfg.ClientSecret != "" {
		return fault.New(fault.Unsupported, "cannot log tailscaled at %s in with an OAuth client secret, which only the embedded backend makes a key of; "+
			"make one and give it as auth_key, or use backend=\"embedded\"", l.Where)
	}
	if err := l.prefer(prefs); err != nil {
		return err
	}
	if err := l.Local.Start(ctx, ipn.Options{AuthKey: l.cfg.Key(), UpdatePrefs: prefs}); err != nil {
		return l.absent(err)
	}
	if err := l.Local.StartLoginInteractive(ctx); err != nil {
		return l.absent(err)
	}
	l.begun.Store(true)
	return nil
}

// resume gives a child that has logged in before the preferences of today.
func (l *life) resume(ctx context.Context, prefs *ipn.Prefs) error {
	if l.cfg.ControlURL != "" && prefs.ControlURL != l.cfg.ControlURL {
		return l.login(ctx, prefs)
	}
	if err := l.prefer(prefs); err != nil {
		return err
	}
	if _, err := l.Local.EditPrefs(ctx, &ipn.MaskedPrefs{Prefs: *prefs, WantRunningSet: true, HostnameSet: true,
		AdvertiseTagsSet: true, RouteAllSet: true, AdvertiseRoutesSet: true, ExitNodeIPSet: true, ExitNodeIDSet: true}); err != nil {
		return fault.New(fault.Config, "routes or exit node: %v", err)
	}
	return nil
}

// prefer puts what the configuration says into preferences.
func (l *life) prefer(prefs *ipn.Prefs) (err error) {
	prefs.WantRunning, prefs.LoggedOut = true, false
	if l.cfg.ControlURL != "" {
		prefs.ControlURL = l.cfg.ControlURL
	}
	if l.child == nil {
		return nil
	}
	prefs.Hostname = l.cfg.Hostname
	prefs.AdvertiseTags = l.cfg.Tags
	prefs.RouteAll = l.cfg.AcceptRoutes
	prefs.AdvertiseRoutes = l.cfg.Routes
	prefs.ExitNodeID, prefs.ExitNodeIP = "", netip.Addr{}
	if l.cfg.ExitNode != "" {
		if prefs.ExitNodeIP, err = netip.ParseAddr(l.cfg.ExitNode); err != nil {
			return fault.New(fault.Config, "exit_node: with tailscaled_managed it must be an IP address, and is %q", l.cfg.ExitNode)
		}
	}
	return nil
}
