package node

import (
	"context"
	"encoding/json"
	"net/netip"

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
	Address string `json:"address" doc:"\"ip\" or \"ip:port\""`
}

// WhoIs returns Tailscale's WhoIsResponse.
func (n *Node) WhoIs(ctx context.Context, a WhoIsArgs) (json.RawMessage, error) {
	ip, err := netip.ParseAddr(a.Address)
	if err != nil {
		ap, err := netip.ParseAddrPort(a.Address)
		if err != nil {
			return nil, fault.New(fault.Config, "whois: %q is neither an IP address nor ip:port", a.Address)
		}
		ip = ap.Addr()
	}
	return asking(n, ctx, func(ctx context.Context, s *session) (json.RawMessage, error) { return s.whois(ctx, ip.Unmap()) })
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
