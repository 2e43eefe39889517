package node

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"tailscale.com/client/local"
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/paths"
	"tailscale.com/safesocket"

	"tailnet/internal/fault"
	"tailnet/internal/proxied"
)

/*
A daemon may hang: it is stopped by a signal or a debugger, or waits for a lock or a disk for
ever. Its socket takes connections all the same, so whatever is asked has a limit.
*/
const (
	// probeLimit is for whether it runs at all, which must be said within a second.
	probeLimit = time.Second

	// answerLimit is for every other question. A daemon answers in milliseconds, and on a
	// machine that is short of memory or of processors perhaps in seconds.
	answerLimit = 5 * time.Second

	// beat is how often one is asked whether it is there still, while we wait for what it
	// may say in an hour.
	beat = 5 * time.Second
)

// newClient returns the client of the LocalAPI at a socket, or at the usual place. What is
// asked must be answered within limit; 0 is for what may take its time.
func newClient(socket string, limit time.Duration) *local.Client {
	c := &local.Client{Socket: socket, UseSocketOnly: socket != ""} // macOS has variants without a socket file
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := dialLocal(ctx, c)
		if err != nil {
			// Not as it is: at the sight of a net.OpError, the client runs systemctl for a hint.
			return nil, fmt.Errorf("%w", err)
		}
		if limit > 0 {
			conn.SetDeadline(time.Now().Add(limit))
		}
		return conn, nil
	}
	// Nothing is left open, or is stale when the daemon has restarted: a connection is one question.
	c.Transport = objects{&http.Transport{DialContext: dial, DisableKeepAlives: true}}
	return c
}

// objects refuses the answer null where the client would make a nil pointer of it without an error.
// (A serve configuration may be null.)
type objects struct{ *http.Transport }

func (t objects) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.Transport.RoundTrip(r)
	if err == nil && !strings.HasSuffix(r.URL.Path, "/serve-config") {
		res.Body = &object{ReadCloser: res.Body}
	}
	return res, err
}

type object struct {
	io.ReadCloser
	begun bool
}

func (o *object) Read(b []byte) (int, error) {
	n, err := o.ReadCloser.Read(b)
	if text := bytes.TrimSpace(b[:n]); !o.begun && len(text) > 0 {
		if o.begun = true; string(text) == "null" { // and not "no match for IP:port"
			return 0, errors.New("the answer is null")
		}
	}
	return n, err
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

// silent reports whether err is that somebody is there and did not answer in time. EAGAIN is
// that of a socket whose backlog is full.
func silent(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, unix.EAGAIN)
}

// absent says why the daemon does not answer.
func (l *life) absent(err error) error {
	if fault.Lacks(err) {
		return fault.For(fault.Internal, err, "cannot ask tailscaled at %s", l.where)
	}
	if l.child != nil {
		return l.child.absent(err)
	}
	switch {
	case silent(err):
		return doesNotAnswer(l.where)
	case errors.Is(err, fs.ErrNotExist):
		return fault.New(fault.NotRunning, "tailscaled is not running: there is no socket %s; "+
			"start it (sudo systemctl start tailscaled), or set tailscaled_socket", l.where)
	case errors.Is(err, fs.ErrPermission):
		return fault.New(fault.NotRunning, "this user may not open the socket %s of tailscaled; its file or directory has a mode that forbids it: run as a user it permits, or change that mode", l.where)
	case local.IsAccessDeniedError(err):
		return fault.New(fault.NotRunning, "tailscaled at %s does not permit this user; "+
			"sudo tailscale set --operator=$USER allows it", l.where)
	case errors.Is(err, unix.ECONNREFUSED):
		return fault.New(fault.NotRunning, "tailscaled is not running: nobody listens at its socket %s; "+
			"start it (sudo systemctl start tailscaled)", l.where)
	}
	return fault.New(fault.NotRunning, "what listens at %s does not answer as a tailscaled does: %s", l.where, l.log.redact(err.Error()))
}

func doesNotAnswer(where string) error {
	return fault.New(fault.NotRunning, "tailscaled at %s does not answer: it hangs, or what listens there is none; "+
		"sudo systemctl restart tailscaled starts it anew", where)
}

// whyGone says why the daemon does not answer, or returns nil where it does.
func (l *life) whyGone(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	if _, err := l.local.StatusWithoutPeers(ctx); err != nil {
		return l.absent(err)
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
			"or close() this node, then make a new Tailnet", l.self.Hostname)
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
	if err := l.stranger(st); err != nil {
		return err
	}
	return l.wasRemoved()
}

// stranger says that the daemon's node is not the one that joined.
func (l *life) stranger(st *ipnstate.Status) error {
	if st.Self == nil || st.Self.ID == "" || string(st.Self.ID) == l.node {
		return nil
	}
	return fault.New(fault.NotRunning, "tailscaled at %s is another node now, %s, after a login or a switch of accounts; "+
		"make a new Tailnet to use that one", l.where, strings.TrimSuffix(st.Self.DNSName, "."))
}

// offline is what the daemon would know.
func (l *life) offline() bool { return false }

func (l *life) loggedOut() error {
	return fault.New(fault.NotRunning, "tailscaled at %s is logged out; run: sudo tailscale up, or give an auth_key to a new Tailnet", l.where)
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
	if c, err := dialLocal(l.ctx, l.local); err == nil {
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
		c, err := dialLocal(l.ctx, l.local)
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
