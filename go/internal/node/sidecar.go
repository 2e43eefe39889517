package node

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/paths"

	"tailnet/internal/bridge"
	"tailnet/internal/fault"
)

// sidecar is a node run by a tailscaled on this machine. So far it finds out whether
// one could be used and says what is in the way; carrying connections through it is
// the next backend to be built.
type sidecar struct {
	cfg    *Config
	client local.Client
}

func newSidecar(c *Config) *sidecar {
	socket := c.TailscaledSocket
	if socket == "" {
		socket = paths.DefaultTailscaledSocket()
	}
	return &sidecar{c, local.Client{Socket: socket, UseSocketOnly: true}}
}

// probeLimit: a daemon on this machine that does not answer within a second will not.
const probeLimit = time.Second

func (s *sidecar) up(ctx context.Context, _ UpArgs) (*Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	var st *ipnstate.Status
	_, err := os.Stat(s.client.Socket) // the client would try again until its time is up
	if err == nil {
		st, err = s.client.StatusWithoutPeers(ctx)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fault.New(fault.NotRunning, "tailscaled is not running: there is no socket %s; "+
			"start it (sudo systemctl start tailscaled), or set tailscaled_socket", s.client.Socket)
	case errors.Is(err, fs.ErrPermission) || local.IsAccessDeniedError(err):
		return nil, fault.New(fault.NotRunning, "tailscaled at %s does not permit this user; "+
			"sudo tailscale set --operator=$USER allows it", s.client.Socket)
	case err != nil:
		return nil, fault.New(fault.NotRunning, "tailscaled does not answer at %s: %v", s.client.Socket, err)
	case st.BackendState != ipn.Running.String():
		return nil, fault.New(fault.NotRunning, "tailscaled at %s is %s, not Running; run: tailscale up", s.client.Socket, st.BackendState)
	}
	return nil, s.unsupported("joining")
}

func (s *sidecar) unsupported(what string) error {
	return fault.New(fault.Unsupported, "%s through a running tailscaled is not built yet; backend=\"embedded\" can do it", what)
}

func (s *sidecar) close() {}

func (s *sidecar) listen(context.Context, Address, *bridge.Acceptor) (uint16, func(), error) {
	return 0, nil, s.unsupported("listen")
}

func (s *sidecar) dial(context.Context, Address) (_ bridge.Far, local, remote netip.AddrPort, _ error) {
	return nil, local, remote, s.unsupported("dial")
}

func (s *sidecar) session() (*session, error) { return nil, s.unsupported("anything") }
