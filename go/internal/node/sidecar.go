package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"tailscale.com/client/local"
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/paths"
	"tailscale.com/safesocket"

	"tailnet/internal/bridge"
	"tailnet/internal/fault"
	"tailnet/internal/proxied"
)

/*
sidecar is a node that a tailscaled runs: one that is there, or a child of ours (child.go).
Everything is asked through its LocalAPI, with Tailscale's own client. How connections come
in is serve.go, how they go out through.go; a daemon with a TUN needs neither, its node's
addresses are the kernel's (tun.go).

The daemon lives on its own terms: it restarts, is stopped, logs out, switches to another
account. The session then does not run, and says why; it runs again when the same node is
back, and listeners with it.
*/
type sidecar struct {
	cfg *Config
	log *logger

	mu   sync.Mutex
	life *life // nil before the first up; a pending one while a person must act
}

// life is what we have of a daemon from up to close. What join finds out is not changed
// after it.
type life struct {
	*session
	cfg   *Config
	log   *logger
	where string // its socket, for messages
	child *child // where we run it
	tun   bool   // its node is on a network interface of the kernel
	uid   uint32 // whom it belongs to
	node  string // its node's stable ID: another one is not ours
	serve serving
}

func newSidecar(c *Config) *sidecar { return &sidecar{cfg: c, log: newLogger(c)} }

// probeLimit: a daemon on this machine that does not answer within a second will not.
const probeLimit = time.Second

// newClient returns the client of the LocalAPI at a socket, or at the usual place.
func newClient(socket string) *local.Client {
	c := &local.Client{Socket: socket, UseSocketOnly: socket != ""} // macOS has variants without a socket file
	c.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dialLocal(ctx, c) },
		DisableKeepAlives: true} // nothing is left open, or is stale when the daemon has restarted
	return c
}

// dialLocal connects to the LocalAPI. The client's own dialer tries again for seconds where
// there is nobody; a service must hear that at once.
func dialLocal(ctx context.Context, c *local.Client) (net.Conn, error) {
	var d net.Dialer
	if !c.UseSocketOnly {
		if port, _, err := safesocket.LocalTCPPortAndToken(); err == nil { // macOS, the app
			return d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		}
	}
	return d.DialContext(ctx, "unix", cmp.Or(c.Socket, paths.DefaultTailscaledSocket()))
}

func (s *sidecar) up(ctx context.Context, args UpArgs) (*Identity, error) {
	s.mu.Lock()
	l := s.life
	s.mu.Unlock()
	if l != nil && l.self != nil {
		return l.self, nil
	}
	if l == nil {
		var err error
		if l, err = s.reach(ctx); err != nil {
			return nil, err
		}
	}
	id, err := l.join(ctx, args)
	pending := fault.Is(err, fault.LoginRequired) || fault.Is(err, fault.ApprovalRequired) || args.WaitForPerson && ctx.Err() != nil
	if err != nil && !pending {
		l.end()
		l = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		l.joined(id)
		if l.child != nil {
			l.child.joined.Store(true)
			bridge.Go(l.outlive)
		}
		bridge.Go(func() { l.follow(l.note, func() { l.session.note(ipn.NoState) }) })
	}
	s.life = l
	return id, err
}

// reach finds the daemon, or starts it.
func (s *sidecar) reach(ctx context.Context) (*life, error) {
	l := &life{session: newSession(), cfg: s.cfg, log: s.log}
	socket := s.cfg.TailscaledSocket
	if s.cfg.TailscaledManaged {
		var err error
		if l.child, err = startChild(s.cfg, s.log); err != nil {
			return nil, err
		}
		socket = l.child.socket
	}
	l.local = newClient(socket)
	l.where = cmp.Or(socket, paths.DefaultTailscaledSocket())
	l.session.whyNot, l.session.stranger = l.whyNot, l.stranger
	return l, nil
}

// join makes sure that the daemon runs, that we may talk to it, and that it is logged in.
func (l *life) join(ctx context.Context, args UpArgs) (*Identity, error) {
	st, prefs, err := l.probe(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.sameControl(prefs); err != nil {
		return nil, err
	}
	if st.BackendState != ipn.Running.String() {
		if err := l.hopeless(st.BackendState); err != nil {
			return nil, err
		}
		mask := upMask
		if stuck := l.child != nil && st.BackendState == ipn.NoState.String() && l.key() != ""; stuck ||
			st.BackendState == ipn.NeedsLogin.String() && l.url == "" {
			if stuck { // what is wrong with it is so without the key
				mask &^= ipn.NotifyInitialHealthState
			}
			err = l.login(ctx, prefs)
		} else if l.child != nil && l.url == "" {
			err = l.resume(ctx, prefs)
		}
		if err != nil {
			return nil, err
		}
		if err := l.awaitRunning(ctx, l.cfg, l.log, args, mask); err != nil {
			return nil, err
		}
	}
	id, st, err := l.identify(ctx, l.cfg.controlName())
	if err != nil {
		return nil, err
	}
	id.ControlURL = cmp.Or(prefs.ControlURL, ipn.DefaultControlURL)
	l.tun, l.node = st.TUN, string(st.Self.ID)
	l.serve.init(l.session, l.log)
	return id, nil
}

// probe asks the daemon for its state and its preferences, and whose it is. A child may
// take as long as an attempt, and has to make up its mind: one that knows the tailnet
// already logs in by itself, and a second login would cut that short. But control may want
// the key again, and then it goes nowhere.
func (l *life) probe(ctx context.Context) (st *ipnstate.Status, prefs *ipn.Prefs, err error) {
	limit := probeLimit
	if l.child != nil {
		limit = l.cfg.connectTimeout()
	}
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var answered time.Time
	for {
		if st, err = l.local.StatusWithoutPeers(within); err == nil {
			if answered.IsZero() {
				answered = time.Now()
			}
			if l.child == nil || st.BackendState != ipn.NoState.String() || time.Since(answered) > grace {
				break
			}
		}
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		if err != nil && (l.child == nil || within.Err() != nil || l.child.ended() != nil) {
			return nil, nil, l.absent(err)
		}
		select {
		case <-within.Done():
		case <-l.child.done:
		case <-time.After(10 * time.Millisecond):
		}
	}
	if st.Version == "" {
		return nil, nil, l.absent(errors.New("its status has no version"))
	}
	if prefs, err = l.local.GetPrefs(within); err != nil {
		return nil, nil, l.absent(err)
	}
	c, err := dialLocal(within, l.local)
	if err != nil {
		return nil, nil, l.absent(err)
	}
	defer c.Close()
	if u, ok := c.(*net.UnixConn); ok {
		l.uid, err = proxied.PeerUID(u)
	}
	return st, prefs, err
}

// absent says why the daemon does not answer.
func (l *life) absent(err error) error {
	switch {
	case l.child != nil:
		if ended := l.child.ended(); ended != nil {
			return ended
		}
		return fault.New(fault.NotRunning, "the tailscaled started for this node does not answer: %v; its last words: %s", err, l.child.lastWords())
	case errors.Is(err, fs.ErrNotExist):
		return fault.New(fault.NotRunning, "tailscaled is not running: there is no socket %s; "+
			"start it (sudo systemctl start tailscaled), or set tailscaled_socket", l.where)
	case errors.Is(err, fs.ErrPermission):
		return fault.New(fault.NotRunning, "this user may not open the socket %s of tailscaled; its file or directory has a mode that forbids it", l.where)
	case local.IsAccessDeniedError(err):
		return fault.New(fault.NotRunning, "tailscaled at %s does not permit this user; "+
			"sudo tailscale set --operator=$USER allows it", l.where)
	case errors.Is(err, unix.ECONNREFUSED):
		return fault.New(fault.NotRunning, "tailscaled is not running: nobody listens at its socket %s; "+
			"start it (sudo systemctl start tailscaled)", l.where)
	}
	return fault.New(fault.NotRunning, "what listens at %s does not answer as a tailscaled does: %s", l.where, l.log.redact(err.Error()))
}

// hopeless says what must be done where waiting will not help, or returns nil.
func (l *life) hopeless(state string) error {
	switch {
	case state == ipn.Stopped.String() && l.child == nil:
		return fault.New(fault.NotRunning, "tailscaled at %s is stopped; run: sudo tailscale up", l.where)
	case state == ipn.NeedsLogin.String() && l.child == nil && l.key() == "":
		return l.loggedOut()
	case state == ipn.InUseOtherUser.String():
		return fault.New(fault.NotRunning, "tailscaled at %s is in use by another user of this machine", l.where)
	}
	return nil
}

// whyNot is the session's.
func (l *life) whyNot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	st, err := l.local.StatusWithoutPeers(ctx)
	switch {
	case err != nil:
		return l.absent(err)
	case st.BackendState == ipn.NeedsLogin.String() && l.child != nil:
		return fault.New(fault.Auth, "node %q is no longer logged in: its key has expired or was removed; extend it in the admin console, "+
			"or make a new Tailnet", l.self.Hostname)
	case st.BackendState == ipn.NeedsLogin.String() && st.HaveNodeKey:
		return fault.New(fault.Auth, "node %q is no longer logged in: its key has expired or was removed; extend it in the admin console, "+
			"or run: sudo tailscale up --force-reauth", l.self.Hostname)
	case st.BackendState == ipn.NeedsLogin.String():
		return l.loggedOut()
	case st.BackendState != ipn.Running.String():
		if err := l.hopeless(st.BackendState); err != nil {
			return err
		}
		return fault.New(fault.NotRunning, "tailscaled at %s is %s, not Running", l.where, st.BackendState)
	}
	return l.stranger(st)
}

// stranger says that the daemon's node is not the one that joined.
func (l *life) stranger(st *ipnstate.Status) error {
	if st.Self == nil || st.Self.ID == "" || string(st.Self.ID) == l.node {
		return nil
	}
	return fault.New(fault.NotRunning, "tailscaled at %s is another node now, %s, after a login or a switch of accounts; "+
		"make a new Tailnet to use that one", l.where, strings.TrimSuffix(st.Self.DNSName, "."))
}

func (l *life) loggedOut() error {
	return fault.New(fault.NotRunning, "tailscaled at %s is logged out; run: sudo tailscale up, or give an auth_key to a new Tailnet", l.where)
}

func (l *life) key() string { return cmp.Or(l.cfg.AuthKey, l.cfg.ClientSecret) }

// sameControl: a daemon that is on another tailnet than the configuration says is a mistake.
func (l *life) sameControl(prefs *ipn.Prefs) error {
	has, want := cmp.Or(prefs.ControlURL, ipn.DefaultControlURL), l.cfg.ControlURL
	if want == "" || l.child != nil || !prefs.WantRunning || strings.TrimSuffix(has, "/") == strings.TrimSuffix(want, "/") {
		return nil
	}
	return fault.New(fault.Config, "control_url: is %s, but tailscaled at %s uses %s; leave it out, or name the other tailscaled by tailscaled_socket",
		want, l.where, has)
}

// login does what `tailscale up --auth-key` does. A daemon that is not ours keeps its
// other preferences.
func (l *life) login(ctx context.Context, prefs *ipn.Prefs) error {
	if err := l.prefer(prefs); err != nil {
		return err
	}
	if err := l.local.Start(ctx, ipn.Options{AuthKey: l.key(), UpdatePrefs: prefs}); err != nil {
		return l.absent(err)
	}
	if err := l.local.StartLoginInteractive(ctx); err != nil {
		return l.absent(err)
	}
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
	if _, err := l.local.EditPrefs(ctx, &ipn.MaskedPrefs{Prefs: *prefs, WantRunningSet: true, HostnameSet: true,
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
	prefs.AdvertiseRoutes = l.cfg.routes
	prefs.ExitNodeID, prefs.ExitNodeIP = "", netip.Addr{}
	if l.cfg.ExitNode != "" {
		if prefs.ExitNodeIP, err = netip.ParseAddr(l.cfg.ExitNode); err != nil {
			return fault.New(fault.Config, "exit_node: with tailscaled_managed it must be an IP address, and is %q", l.cfg.ExitNode)
		}
	}
	return nil
}

// note takes in what the daemon says while the node is up.
func (l *life) note(n ipn.Notify) {
	if n.SessionID != "" { // the first of a watch; our entries live as long as that
		l.serve.watch(n.SessionID)
	}
	switch {
	case n.SelfChange != nil && string(n.SelfChange.StableID) != l.node:
		l.session.note(ipn.NoState) // another node's running is not ours
	case n.State != nil && *n.State == ipn.Running:
		if l.whyNot(l.ctx) != nil {
			l.session.note(ipn.NoState)
		} else {
			l.serve.resume()
		}
	}
}

// outlive tells who waits for connections when a child is gone: it does not come back.
func (l *life) outlive() {
	select {
	case <-l.child.done:
		l.serve.end()
	case <-l.ctx.Done():
	}
}

// gone reports whether the daemon is not there any more. One that was killed has closed
// its listening socket before its connections, as the kernel goes by their numbers.
func (l *life) gone() bool {
	c, err := dialLocal(l.ctx, l.local)
	if err != nil {
		return true
	}
	c.Close()
	return false
}

func (s *sidecar) joined() (*life, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life == nil || s.life.self == nil {
		return nil, fault.New(fault.Closed, "the node has not joined the tailnet, or has left it")
	}
	return s.life, nil
}

// ends: a daemon without a TUN drops both directions when one ends, of connections it
// forwards (forwardTCPWithProxyProtocol) and of those it dials (serveDial).
func (s *sidecar) ends() bridge.Ends {
	if l, err := s.joined(); err != nil || !l.tun {
		return bridge.AsOne
	}
	return bridge.EachWay
}

func (s *sidecar) session() (*session, error) {
	l, err := s.joined()
	if err != nil {
		return nil, err
	}
	return l.session, nil
}

func (s *sidecar) close() {
	s.mu.Lock()
	l := s.life
	s.life = nil
	s.mu.Unlock()
	if l == nil {
		return
	}
	if l.self != nil {
		if l.child != nil {
			awaitQuiet(l.local)
		} else {
			l.serve.clear()
		}
	}
	l.end()
}

// end lets go of the daemon: its watch ends, and our entries with that. A child ends.
func (l *life) end() {
	l.cancel()
	l.child.stop()
}

// quietLimit bounds awaitQuiet: what is left of close()'s three seconds is not known here.
// A daemon that has sent nothing for so long as quiet has nothing to send.
const (
	quietLimit = 2 * time.Second
	quiet      = 300 * time.Millisecond
)

// awaitQuiet waits until a daemon that is about to end sends nothing any more: what was
// written is in its netstack, and it would end without sending it.
func awaitQuiet(lc *local.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), quietLimit)
	defer cancel()
	for last, since := int64(-1), time.Now(); time.Since(since) < quiet; {
		text, err := lc.UserMetrics(ctx)
		if err != nil {
			return
		}
		if n := outboundBytes(text); n != last {
			if last >= 0 {
				since = time.Now()
			}
			last = n
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(quiet / 10):
		}
	}
}

// outboundBytes adds up what the daemon has sent to peers, over every path.
func outboundBytes(metrics []byte) (n int64) {
	for line := range strings.Lines(string(metrics)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(name, "tailscaled_outbound_bytes_total") {
			v, _ := strconv.ParseFloat(value, 64)
			n += int64(v)
		}
	}
	return n
}
