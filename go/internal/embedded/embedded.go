// Package embedded is a node inside this process, by tsnet.
//
// Read embedded.go, up.go, oauth.go, expiry.go and exit.go for its life; listen.go, dial.go and
// far.go for that of a connection.
package embedded

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"tailscale.com/client/local"
	_ "tailscale.com/feature/capture" // begun by the LocalAPI alone, which is in this process
	"tailscale.com/ipn"
	"tailscale.com/tsnet"
	"tailscale.com/types/key"
	"tailscale.com/wgengine/netstack"

	"tailnet/internal/bridge"
	"tailnet/internal/config"
	"tailnet/internal/fault"
	"tailnet/internal/logs"
	"tailnet/internal/session"
	"tailnet/internal/state"
)

// Backend is a node inside this process, by tsnet.
type Backend struct {
	cfg *config.Config
	log *logs.Logger

	deafen func()

	mu     sync.Mutex
	server *server     // nil before up; a pending one while a person must act, or after an attempt that was given up
	memory *state.Keys // of an earlier attempt, where there is no state directory
	made   string      // an auth key that was made of the client secret, and is not used yet
	ports  ports
}

// New returns a node that has not joined; nothing has started yet.
func New(c *config.Config) *Backend {
	e := &Backend{cfg: c, log: c.Logger()}
	e.deafen = e.log.Hears(cmp.Or(c.ControlURL, ipn.DefaultControlURL))
	return e
}

// server is one life of a tsnet.Server, with what must be undone after it. Its session
// ends before tsnet is closed, whose Close takes 5 s while a watcher is open.
type server struct {
	*session.Session
	log    *logs.Logger
	ts     *tsnet.Server
	idle   *http.Transport // of local, to let go of its connections
	stack  *netstack.Impl
	before *state.Trace
	held   state.Lock // the state directory, or the scratch one
	keys   *state.Keys
	unuse  func() // of keys

	keyed    bool           // it was given an auth key
	retags   bool           // it asks for other tags than it has joined with,
	had      []string       // which are these,
	oldKey   key.NodePublic // with this node key
	renewing bool           // it has been told to register anew, because of that
	awaiting bool           // it is looked whether the admin extends its expired node key

	scratch string // a temporary directory of ours, or ""

	ended atomic.Pointer[fault.Error] // why it has left the tailnet by itself; nil while it has not
}

// timeWait replaces gVisor's 60 s: endpoints in TIME_WAIT are what holds memory after
// thousands of short connections (facts-tsnet, section 8). One second still covers
// late segments of any path a tailnet has.
const timeWait = time.Second

// start makes a server that tries to log in. It holds the state directory.
func (e *Backend) start(ctx context.Context) (_ *server, err error) {
	if err := config.CheckFamilies(); err != nil {
		return nil, err
	}
	s := &server{log: e.log, before: state.Traced(e.cfg.StateDir)}
	s.Session = session.New(s)
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	debug := e.log.At("debug")
	var noPort atomic.Value // what magicsock tells only its log
	s.ts = &tsnet.Server{
		Dir:           e.cfg.StateDir,
		Hostname:      e.cfg.Hostname,
		Ephemeral:     e.cfg.Ephemeral,
		ControlURL:    e.cfg.ControlURL,
		Port:          e.cfg.Port,
		AdvertiseTags: e.cfg.Tags,
		UserLogf:      e.log.UserLogf(cmp.Or(e.cfg.StateDir, "memory")),
		Logf: func(format string, args ...any) {
			if strings.Contains(format, "unable to bind") {
				noPort.Store(fmt.Sprintf(format, args...))
			}
			debug(format, args...)
		},
	}
	if e.cfg.StateDir == "" {
		if s.scratch, s.held, err = state.MakeScratch(e.cfg.Hostname); err != nil {
			return nil, err
		}
		s.ts.Dir = s.scratch
	} else if s.held, err = state.LockDir(e.cfg); err != nil {
		return nil, err
	}
	s.before.Read()
	config.NeedNoNetwork(e.cfg.ControlURL)
	if s.keys = e.memory; s.keys == nil {
		if s.keys, err = state.OpenKeys(debug, e.cfg.StateDir); err != nil {
			return nil, err
		}
	}
	if e.cfg.StateDir == "" {
		e.memory = s.keys
	}
	s.ts.Store, s.unuse = s.keys.StateStore, s.keys.Use()
	s.had = state.JoinedTags(e.cfg, s.keys.Prefs().AdvertiseTags)
	known := !s.keys.NodeKey().IsZero()
	if s.retags = known && !session.SameTags(s.had, e.cfg.Tags); s.retags {
		s.oldKey = s.keys.NodeKey().Public()
	}
	if !known || s.retags || !e.cfg.HasSecret() { // else join makes a key, should it need one
		if s.ts.AuthKey, err = e.authKey(ctx); err != nil {
			return nil, err
		}
		s.keyed = true
	}
	if err := s.ts.Start(); err != nil {
		if why := noPort.Load(); why != nil && strings.Contains(err.Error(), "failed to bind any ports") {
			err = fmt.Errorf("%w: %v", err, why)
		}
		return nil, startError(e.cfg, e.log, err)
	}
	// magicsock takes another port where it cannot have this one, and tells only its log.
	if has := s.ts.Sys().MagicSock.Get().LocalPort(); e.cfg.Port != 0 && has != e.cfg.Port {
		e.log.At("warning")("cannot have UDP port %d, so peers reach this node at %d; see who has it, or give another port", e.cfg.Port, has)
	}
	lc, err := s.ts.LocalClient()
	if err != nil {
		return nil, fault.For(fault.Internal, err, "no LocalAPI")
	}
	s.idle = &http.Transport{DialContext: lc.Dial}
	s.Local = &local.Client{Dial: lc.Dial, Transport: s.idle}
	s.Slow = s.Local
	var ok bool
	if s.stack, ok = s.ts.Sys().Netstack.Get().(*netstack.Impl); !ok {
		return nil, fault.New(fault.Internal, "tsnet runs without its netstack")
	}
	opt := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	s.stack.SetTransportProtocolOption(header.TCPProtocolNumber, &opt)
	s.ts.RegisterFallbackTCPHandler(e.accept)
	return s, nil
}

// authKey returns the key to log in with, and makes one where there is a client secret. One that
// was made and not used, because control was away, serves the next attempt.
func (e *Backend) authKey(ctx context.Context) (_ string, err error) {
	if !e.cfg.HasSecret() {
		return e.cfg.Key(), nil
	}
	if e.made == "" {
		e.made, err = madeKey(ctx, e.cfg, e.log)
	}
	return e.made, err
}

// login does what `tailscale up` does with an auth key.
func (e *Backend) login(ctx context.Context, s *server) error {
	made, err := e.authKey(ctx)
	if err == nil {
		err = s.Local.Start(ctx, ipn.Options{AuthKey: made})
	}
	if err == nil {
		s.keyed = true
		err = s.Local.StartLoginInteractive(ctx)
	}
	return err
}

// stopLimit bounds tsnet's Close, in case it blocks for a reason not known yet.
const stopLimit = 3 * time.Second

// An ending is why a server stops.
type ending struct {
	again   bool // the next attempt is to be the same node: an ephemeral one does not log out
	useless bool // the node key that was tried is dead
}

// stop ends a server that was started, and gives the directory back.
func (s *server) stop(why ending) {
	s.Cancel()
	closed := make(chan struct{})
	bridge.Go(func() {
		defer close(closed)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		if why.again {
			s.Local.DisconnectControl(ctx) // tsnet's Close logs out where there is a connection to control
		}
		// Requests at the same time leave connections that carried none, and the LocalAPI's
		// server waits 5 s for their first (http.Server.Shutdown).
		s.idle.CloseIdleConnections()
		if abandon(s.stack) {
			time.Sleep(bridge.LastReset)
		}
		silence(ctx, s.stack)
		s.keys.Settle(why.useless)
		s.ts.Close()
	})
	select {
	case <-closed:
	case <-time.After(stopLimit):
		s.log.At("warning")("tsnet did not close within %v", stopLimit)
	}
	s.release()
	bridge.NodeEnded()
}

func (s *server) release() {
	if s.unuse != nil {
		s.unuse()
	}
	s.before.Undo()
	s.held.Release()
	s.held = nil
	if s.scratch != "" {
		os.RemoveAll(s.scratch)
		s.scratch = ""
	}
}

// running returns the server of a node that has joined.
func (e *Backend) running() (*server, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.server == nil || e.server.Self == nil {
		return nil, fault.New(fault.Closed, "the node has not joined the tailnet, or has left it")
	}
	if why := e.server.ended.Load(); why != nil {
		return nil, why
	}
	return e.server, nil
}

// Session returns the session of a node that has joined, or fault.Closed.
func (e *Backend) Session() (*session.Session, error) {
	s, err := e.running()
	if err != nil {
		return nil, err
	}
	return s.Session, nil
}

// Close leaves the tailnet. What connections have yet to deliver was drained before.
func (e *Backend) Close() {
	e.deafen()
	e.mu.Lock()
	s := e.server
	e.server = nil
	e.mu.Unlock()
	if s != nil {
		s.stop(ending{})
	}
}

// settle gives a node that has joined its preferences. tsnet replaces all of them at
// every start, and a serve configuration of an earlier run may still be on disk.
func (s *server) settle(ctx context.Context, c *config.Config) error {
	if err := s.Local.SetServeConfig(ctx, new(ipn.ServeConfig)); err != nil {
		return fault.For(fault.Internal, err, "node %q cannot keep its state", c.Hostname)
	}
	prefs := &ipn.MaskedPrefs{
		Prefs:                ipn.Prefs{RouteAll: c.AcceptRoutes, AdvertiseRoutes: c.Routes},
		RouteAllSet:          true,
		AdvertiseRoutesSet:   true,
		AdvertiseServicesSet: true,
	}
	if c.ExitNode != "" {
		st, err := s.Local.Status(ctx)
		if err != nil {
			return fault.For(fault.Internal, err, "status")
		}
		if err := prefs.Prefs.SetExitNodeIP(c.ExitNode, st); err != nil {
			return fault.New(fault.Config, "exit_node %q: %v; give the name or the IP address of a peer that is one", c.ExitNode, err)
		}
		prefs.ExitNodeIDSet, prefs.ExitNodeIPSet = true, true
	}
	if _, err := s.Local.EditPrefs(ctx, prefs); err != nil {
		return fault.For(fault.Config, err, "routes or exit node")
	}
	return nil
}
