package node

import (
	"context"
	"encoding/json"

	"tailscale.com/tailcfg"
	"tailscale.com/wgengine/magicsock"

	"tailnet/internal/bridge"
	"tailnet/internal/config"
	"tailnet/internal/fault"
	"tailnet/internal/session"
)

/*
The operations: what a program can ask of a node that has joined, one method each. The table
that names them is operations.go of the main package. A method asks the session, so that both
backends answer.
*/

// asking runs a question, bounded by its caller and by the node.
func asking[T any](n *Node, ctx context.Context, question func(context.Context, *session.Session) (T, error)) (answer T, err error) {
	s, err := n.backend.Session()
	if err != nil {
		return answer, err
	}
	ctx, done := n.within(ctx)
	defer done()
	answer, err = question(ctx, s)
	return answer, n.closedOr(err)
}

// NoArgs are the arguments of an operation that takes none.
type NoArgs struct{}

// WhoIsArgs are those of "whois".
type WhoIsArgs struct {
	Address string `json:"address" doc:"an IP address or a name, with or without a port"`
}

// WhoIs returns Tailscale's WhoIsResponse.
func (n *Node) WhoIs(ctx context.Context, a WhoIsArgs) (json.RawMessage, error) {
	host := config.HostOf(a.Address)
	if host == "" {
		return nil, fault.New(fault.Config, "whois: %q is neither an IP address nor a name of the tailnet, with or without a port", a.Address)
	}
	return asking(n, ctx, func(ctx context.Context, s *session.Session) (json.RawMessage, error) {
		ip, err := s.Resolve(ctx, host)
		if fault.Is(err, fault.Name) {
			return nil, fault.New(fault.NotFound, "whois: the tailnet knows no machine or name %q; ask for an address, or a name of status().peers", host)
		} else if err != nil {
			return nil, err
		}
		return s.Whois(ctx, ip)
	})
}

// Status returns Tailscale's ipnstate.Status.
func (n *Node) Status(ctx context.Context, _ NoArgs) (json.RawMessage, error) {
	return asking(n, ctx, func(ctx context.Context, s *session.Session) (json.RawMessage, error) { return s.Status(ctx) })
}

// Watch sends events until the reader goes or the node closes.
func (n *Node) Watch(stream *bridge.Stream, _ NoArgs) error {
	s, err := n.backend.Session()
	if err != nil {
		return err
	}
	s.Watch(stream)
	return nil
}

// Capture writes packets until the reader ends the session or the node closes.
func (n *Node) Capture(stream *bridge.Stream, a session.CaptureArgs) (*session.Captured, func() error, error) {
	s, err := n.backend.Session()
	if err != nil {
		if a.To != nil {
			a.To.Close()
		}
		return nil, nil, err
	}
	ctx, done := n.within(stream.Context())
	answer, run, err := s.Capture(ctx, a)
	if err != nil {
		done()
		return nil, nil, n.closedOr(err)
	}
	return answer, func() error { defer done(); return run() }, nil
}

// Ping asks a peer for an answer, and waits for it as long as the caller does.
func (n *Node) Ping(ctx context.Context, a session.PingArgs) (*session.Ping, error) {
	kind, ok := session.Pings[a.Kind]
	switch {
	case !ok:
		return nil, fault.New(fault.Config, "ping: kind %q is none of disco, tsmp, icmp, peerapi", a.Kind)
	case a.Size < 0 || a.Size > magicsock.MaxDiscoPingSize:
		return nil, fault.New(fault.Config, "ping: size %d is not within 0 and %d bytes", a.Size, magicsock.MaxDiscoPingSize)
	case a.Size > 0 && kind != tailcfg.PingDisco:
		return nil, fault.New(fault.Config, "ping: only kind \"disco\" takes a size")
	}
	return asking(n, ctx, func(ctx context.Context, s *session.Session) (*session.Ping, error) {
		return s.Ping(ctx, a.Target, kind, a.Size)
	})
}
