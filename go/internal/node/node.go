// Package node is a node of a tailnet, whichever backend it has: how it joins and leaves, its
// listeners and connections, and the questions it answers (operations.go).
package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"tailnet/internal/bridge"
	"tailnet/internal/config"
	"tailnet/internal/embedded"
	"tailnet/internal/fault"
	"tailnet/internal/session"
	"tailnet/internal/sidecar"
)

// A backend is the way a node is on the tailnet. Its methods may take as long as
// their context; the bridge runs them apart from Python.
type backend interface {
	// up joins, in one attempt.
	Up(ctx context.Context, args session.UpArgs) (*session.Identity, error)

	// close leaves the tailnet; connections have been drained before.
	Close()

	// listen makes connections to addr arrive at a.
	Listen(ctx context.Context, addr config.Address, a *bridge.Acceptor) (port uint16, stop func(), err error)

	// dial connects to a name or address of the tailnet.
	Dial(ctx context.Context, addr config.Address) (*bridge.Dialed, error)

	// session is what answers questions about a node that has joined.
	Session() (*session.Session, error)
}

// Node is what a tailnet_handle of a node stands for.
type Node struct {
	backend backend
	conns   bridge.Conns

	ctx    context.Context // ends when the node closes; every operation is bounded by it
	cancel context.CancelFunc

	upMu sync.Mutex // one attempt at a time

	mu        sync.Mutex
	listeners map[*Listener]struct{}
	closing   bool // no listener begins any more
}

// New makes a node that has not joined, and opens nothing.
func New(c *config.Config) (*Node, error) {
	n := &Node{listeners: map[*Listener]struct{}{}}
	switch c.Backend {
	case "embedded":
		n.backend = embedded.New(c)
	case "tailscaled":
		n.backend = sidecar.New(c)
	default:
		return nil, fault.New(fault.Config, "backend: %q is neither \"embedded\" nor \"tailscaled\"", c.Backend)
	}
	if err := c.Process.Fix(); err != nil {
		n.backend.Close()
		return nil, err
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n, nil
}

// within bounds an operation by its caller and by the node.
func (n *Node) within(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(n.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// closedOr replaces the error of an operation that the node's end cut short.
func (n *Node) closedOr(err error) error {
	if err != nil && n.ctx.Err() != nil {
		return fault.New(fault.Closed, "the node was closed")
	}
	return err
}

// Up joins the tailnet, in one attempt.
func (n *Node) Up(ctx context.Context, args session.UpArgs) (*session.Identity, error) {
	n.upMu.Lock()
	defer n.upMu.Unlock()
	ctx, done := n.within(ctx)
	defer done()
	// The node's end reaches ctx a moment later, and Close has stopped what there was to stop.
	if err := errors.Join(ctx.Err(), n.ctx.Err()); err != nil {
		return nil, n.closedOr(err)
	}
	id, err := n.backend.Up(ctx, args)
	return id, n.closedOr(err)
}

// Close drains for at most limit and leaves. Call it once.
func (n *Node) Close(limit time.Duration) bool {
	n.mu.Lock()
	n.closing = true
	for l := range n.listeners {
		l.closeLocked()
	}
	n.mu.Unlock()
	drained := n.conns.Drain(limit)
	n.cancel()
	n.upMu.Lock() // an attempt under way ends first: tsnet's Close must not race its Start
	defer n.upMu.Unlock()
	n.backend.Close()
	return drained
}

// A Listener is what a tailnet_handle of a listener stands for.
type Listener struct {
	node *Node
	IP   string // "" is every address of the node
	Port uint16

	// Options are those of its connections; nil where they cannot be set.
	Options *bridge.Options

	mu       sync.Mutex // after the node's
	closed   bool
	acceptor *bridge.Acceptor // nil until it has begun
	end      func()           // what Close does, once it has begun
}

// NewListener makes a listener that has not begun; it may be closed already.
func (n *Node) NewListener() *Listener { return &Listener{node: n, end: func() {}} }

// Begin makes connections to address arrive at the unix socket at path.
func (l *Listener) Begin(ctx context.Context, address, path string, backlog int) error {
	n := l.node
	addr, err := config.ParseAddress(address)
	if err != nil {
		return err
	}
	ctx, done := n.within(ctx)
	defer done()
	acceptor, err := bridge.NewAcceptor(&n.conns, path, backlog)
	if err != nil {
		return err
	}
	port, stop, err := n.backend.Listen(ctx, addr, acceptor)
	if err != nil {
		acceptor.Close()
		return n.closedOr(err)
	}
	end := func() {
		stop()
		acceptor.Close()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || n.closing {
		end()
		return fault.New(fault.Closed, "the listener or its node was closed")
	}
	l.IP, l.Port, l.Options, l.acceptor, l.end = addr.Host, port, acceptor.Options, acceptor, end
	n.listeners[l] = struct{}{}
	return nil
}

// SetOption sets an option of the connections that come from now on.
func (l *Listener) SetOption(option bridge.Option, value int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acceptor != nil {
		l.acceptor.SetOption(option, value)
	}
}

// Close refuses new connections. It may be called twice, and before Begin.
func (l *Listener) Close() {
	l.node.mu.Lock()
	defer l.node.mu.Unlock()
	l.closeLocked()
	delete(l.node.listeners, l)
}

// closeLocked is Close for who holds the node's lock.
func (l *Listener) closeLocked() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		l.end()
	}
}

// Dial connects to an address; end becomes the connection.
func (n *Node) Dial(address string, end bridge.End) {
	n.conns.Dial(end, func(ctx context.Context) (*bridge.Dialed, error) { return n.connect(ctx, address) })
}

func (n *Node) connect(ctx context.Context, address string) (*bridge.Dialed, error) {
	addr, err := config.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	if addr.Host == "" || addr.Port == 0 {
		why := ""
		if addr.Host != "" {
			why = ", and nobody listens on port 0"
		}
		return nil, fault.New(fault.Config, "cannot dial %q: want host:port, such as \"api:443\"%s", address, why)
	}
	ctx, done := n.within(ctx)
	defer done()
	dialed, err := n.backend.Dial(ctx, addr)
	return dialed, n.closedOr(err)
}

// Count returns the node's open listeners and connections.
func (n *Node) Count() (listeners, connections int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.listeners), n.conns.Len()
}
