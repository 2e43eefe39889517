package node

import (
	"context"
	"encoding/json"

	"tailnet/internal/bridge"
	"tailnet/internal/fault"
)

/*
The operations: what a program can ask of a node that has joined, one method each. The table
that names them is operations.go of the main package. A method asks the session, so that both
backends answer.
*/

// asking runs a question, bounded by its caller and by the node.
func asking[T any](n *Node, ctx context.Context, question func(context.Context, *session) (T, error)) (answer T, err error) {
	s, err := n.backend.session()
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
	host := hostOf(a.Address)
	if host == "" {
		return nil, fault.New(fault.Config, "whois: %q is neither an IP address nor a name of the tailnet, with or without a port", a.Address)
	}
	return asking(n, ctx, func(ctx context.Context, s *session) (json.RawMessage, error) {
		ip, err := s.resolve(ctx, host)
		if fault.Is(err, fault.Name) {
			return nil, fault.New(fault.NotFound, "whois: the tailnet knows no machine or name %q; ask for an address, or a name of status().peers", host)
		} else if err != nil {
			return nil, err
		}
		return s.whois(ctx, ip)
	})
}

// Status returns Tailscale's ipnstate.Status.
func (n *Node) Status(ctx context.Context, _ NoArgs) (json.RawMessage, error) {
	return asking(n, ctx, func(ctx context.Context, s *session) (json.RawMessage, error) { return s.status(ctx) })
}

// Watch sends events until the reader goes or the node closes.
func (n *Node) Watch(stream *bridge.Stream, _ NoArgs) error {
	s, err := n.backend.session()
	if err != nil {
		return err
	}
	s.watch(stream)
	return nil
}
