package sidecar

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"tailscale.com/client/local"
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnstate"

	"tailnet/internal/fault"
	"tailnet/internal/logs"
	"tailnet/internal/proxied"
	"tailnet/internal/session"
)

// absent says why the daemon does not answer.
func (l *life) absent(err error) error {
	if fault.Lacks(err) {
		return fault.For(fault.Internal, err, "cannot ask tailscaled at %s", l.Where)
	}
	if l.child != nil {
		return l.child.absent(err)
	}
	switch {
	case session.Silent(err):
		return session.DoesNotAnswer(l.Where)
	case errors.Is(err, fs.ErrNotExist):
		return fault.New(fault.NotRunning, "tailscaled is not running: there is no socket %s; "+
			"start it (sudo systemctl start tailscaled), or set tailscaled_socket", l.Where)
	case errors.Is(err, fs.ErrPermission):
		return fault.New(fault.NotRunning, "this user may not open the socket %s of tailscaled; its file or directory has a mode that forbids it: run as a user it permits, or change that mode", l.Where)
	case local.IsAccessDeniedError(err):
		return fault.New(fault.NotRunning, "tailscaled at %s does not permit this user; "+
			"sudo tailscale set --operator=$USER allows it", l.Where)
	case errors.Is(err, unix.ECONNREFUSED):
		return fault.New(fault.NotRunning, "tailscaled is not running: nobody listens at its socket %s; "+
			"start it (sudo systemctl start tailscaled)", l.Where)
	}
	return fault.New(fault.NotRunning, "what listens at %s does not answer as a tailscaled does: %s", l.Where, l.log.Redact(err.Error()))
}

// WhyGone says why the daemon does not answer, or returns nil where it does.
func (l *life) WhyGone(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, session.ProbeLimit)
	defer cancel()
	if _, err := l.Local.StatusWithoutPeers(ctx); err != nil {
		return l.absent(err)
	}
	return nil
}

// WhyNot is the session's.
func (l *life) WhyNot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, session.ProbeLimit)
	defer cancel()
	st, err := l.Local.StatusWithoutPeers(ctx)
	switch {
	case err != nil:
		return l.absent(err)
	case st.BackendState == ipn.NeedsLogin.String() && l.child != nil:
		return fault.New(fault.Auth, "node %q is no longer logged in: its key has expired or was removed; extend it in the admin console, "+
			"or close() this node, then make a new Tailnet", l.Self.Hostname)
	case st.BackendState == ipn.NeedsLogin.String() && st.HaveNodeKey:
		return fault.New(fault.Auth, "node %q is no longer logged in: its key has expired or was removed; extend it in the admin console, "+
			"or run: sudo tailscale up --force-reauth", l.Self.Hostname)
	case st.BackendState == ipn.NeedsLogin.String():
		return l.loggedOut()
	case st.BackendState != ipn.Running.String():
		if err := l.hopeless(st.BackendState); err != nil {
			return err
		}
		return fault.New(fault.NotRunning, "tailscaled at %s is %s, not Running", l.Where, st.BackendState)
	}
	if err := l.Stranger(st); err != nil {
		return err
	}
	return l.WasRemoved()
}

// Stranger says that the daemon's node is not the one that joined.
func (l *life) Stranger(st *ipnstate.Status) error {
	if st.Self == nil || st.Self.ID == "" || string(st.Self.ID) == l.node {
		return nil
	}
	return fault.New(fault.NotRunning, "tailscaled at %s is another node now, %s, after a login or a switch of accounts; "+
		"make a new Tailnet to use that one", l.Where, strings.TrimSuffix(st.Self.DNSName, "."))
}

// Logger is that of the node's name, once that is known.
func (l *life) Logger() *logs.Logger { return l.log }

// Offline is what the daemon would know.
func (l *life) Offline() bool { return false }

func (l *life) loggedOut() error {
	return fault.New(fault.NotRunning, "tailscaled at %s is logged out; run: sudo tailscale up, or give an auth_key to a new Tailnet", l.Where)
}

// daemonOf returns the process at the other end of c. It is to be asked as soon as c is there: of
// one that has ended meanwhile nothing is known, and it would not be seen to have ended.
func daemonOf(c net.Conn) *proxied.Process {
	var p proxied.Process
	if u, ok := c.(*net.UnixConn); ok {
		p = proxied.PeerProcess(u)
	}
	return &p
}

// meetAgain is for a daemon that may have restarted: who comes in does so through another process.
func (l *life) meetAgain() {
	daemon := new(proxied.Process)
	if c, err := session.DialDaemon(l.Ctx, l.Local); err == nil {
		daemon = daemonOf(c)
		c.Close()
	}
	l.process.Store(daemon)
}

// gone tells of a connection through the process that was the daemon whether that is not there any
// more. One that shuts down closes its listening socket first; of one that was killed the kernel
// closes what it has in any order.
func (l *life) gone(daemon *proxied.Process) func() bool {
	return func() bool {
		c, err := session.DialDaemon(l.Ctx, l.Local)
		if err == nil {
			c.Close()
		}
		return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) || daemon.Ending()
	}
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
