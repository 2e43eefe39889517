package session

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"tailscale.com/client/local"
	"tailscale.com/paths"
	"tailscale.com/safesocket"

	"tailnet/internal/fault"
)

/*
A daemon may hang: it is stopped by a signal or a debugger, or waits for a lock or a disk for
ever. Its socket takes connections all the same, so whatever is asked has a limit.
*/
const (
	// ProbeLimit is for whether it runs at all, which must be said within a second.
	ProbeLimit = time.Second

	// AnswerLimit is for every other question. A daemon answers in milliseconds, and on a
	// machine that is short of memory or of processors perhaps in seconds.
	AnswerLimit = 5 * time.Second

	// beat is how often one is asked whether it is there still, while we wait for what it
	// may say in an hour.
	beat = 5 * time.Second
)

// NewClient returns the client of the LocalAPI at a socket, or at the usual place. What is
// asked must be answered within limit; 0 is for what may take its time.
func NewClient(socket string, limit time.Duration) *local.Client {
	c := &local.Client{Socket: socket, UseSocketOnly: socket != ""} // macOS has variants without a socket file
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := DialDaemon(ctx, c)
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

// DialDaemon connects to the LocalAPI. The client's own dialer tries again for seconds where
// there is nobody; a service must hear that at once.
func DialDaemon(ctx context.Context, c *local.Client) (net.Conn, error) {
	var d net.Dialer
	if !c.UseSocketOnly {
		if port, _, err := safesocket.LocalTCPPortAndToken(); err == nil { // macOS, the app
			return d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		}
	}
	return d.DialContext(ctx, "unix", cmp.Or(c.Socket, paths.DefaultTailscaledSocket()))
}

// Silent reports whether err is that somebody is there and did not answer in time. EAGAIN is
// that of a socket whose backlog is full.
func Silent(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, unix.EAGAIN)
}

// DoesNotAnswer is the error for a daemon that is Silent.
func DoesNotAnswer(where string) error {
	return fault.New(fault.NotRunning, "tailscaled at %s does not answer: it hangs, or what listens there is none; "+
		"sudo systemctl restart tailscaled starts it anew", where)
}
