package testcontrol

import (
	"cmp"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"tailscale.com/tailcfg"
	"tailscale.com/types/logger"

	"tailnet/internal/fault"
)

// A Fault is what the control server's HTTP layer does to its clients.
type Fault struct {
	Kind       string `json:"kind"`        // one of those in kinds
	Status     int    `json:"status"`      // of the answers of "status" and "refuse_http"; 0 is 500. The exit status of "exit"
	RetryAfter int    `json:"retry_after"` // seconds, in the header of "status" and "rate_limit"; 0 leaves it out
	Message    string `json:"message"`     // why "reject" refuses
}

func (f Fault) status() int { return cmp.Or(f.Status, http.StatusInternalServerError) }

var kinds = map[string]bool{
	"none":        true,
	"refuse":      true, // nobody listens at the port
	"hang":        true, // connections are accepted, requests never answered
	"status":      true, // every request is answered with Status
	"rate_limit":  true, // registrations get HTTP 429, within Tailscale's encrypted protocol
	"refuse_http": true, // registrations get HTTP Status there
	"reject":      true, // registrations are refused, because of Message
	"no_map":      true, // registrations are answered, and requests for a network map never
	"exit":        true, // every node is ordered to end its process, with exit status Status
}

// cutting are the kinds that end every connection, or running nodes would not notice.
var cutting = map[string]bool{"refuse": true, "hang": true, "status": true, "no_map": true, "exit": true}

// front is the HTTP server that nodes talk to. A running node has one long-lived
// connection, taken over from HTTP: faults must cut it, or the node would not notice.
type front struct {
	addr    string
	logf    logger.Logf
	server  http.Server
	control http.Handler

	mu      sync.Mutex
	ln      net.Listener // nil while refusing
	fault   Fault
	changed chan struct{} // closed when fault changes
	conns   map[net.Conn]struct{}
	closed  bool
}

func newFront(addr string, logf logger.Logf) (*front, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	f := &front{
		addr: ln.Addr().String(), logf: logf, ln: ln,
		fault: Fault{Kind: "none"}, changed: make(chan struct{}), conns: map[net.Conn]struct{}{},
	}
	f.server.Handler = f
	f.server.ErrorLog = log.New(logWriter{logf}, "", 0)
	return f, nil
}

func (f *front) url() string { return "http://" + f.addr }

// serve starts to answer with the control server.
func (f *front) serve(control http.Handler) {
	f.control = control
	go f.server.Serve(tracked{f.ln, f})
}

func (c *Control) setFault(next Fault) error { return c.front.set(next) }

// set puts a fault in the place of the one there is, and ends every connection that
// was made under other rules.
func (f *front) set(next Fault) error {
	if !kinds[next.Kind] {
		return fault.New(fault.Config, "fault: unknown kind %q; known are none, refuse, hang, status, rate_limit, refuse_http, reject, no_map and exit", next.Kind)
	}
	if (next.Kind == "reject") != (next.Message != "") {
		return fault.New(fault.Config, "fault: \"reject\", and no other kind, has a message")
	}
	if next.Kind != "exit" && next.Status != 0 && (next.Status < 200 || next.Status > 599) {
		return fault.New(fault.Config, "fault: status %d is no final HTTP status", next.Status)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return fault.New(fault.Config, "fault: the control server has ended")
	}
	if next.Kind == "refuse" {
		if f.ln != nil {
			f.ln.Close()
			f.ln = nil
		}
	} else if f.ln == nil {
		ln, err := net.Listen("tcp", f.addr)
		if err != nil {
			return fault.For(fault.Config, err, "fault: cannot listen again")
		}
		f.ln = ln
		go f.server.Serve(tracked{ln, f})
	}
	f.fault = next
	close(f.changed)
	f.changed = make(chan struct{})
	if cutting[next.Kind] {
		f.cutLocked()
	}
	return nil
}

func (f *front) cutLocked() {
	for c := range f.conns {
		go c.Close() // it takes f.mu
	}
}

func (f *front) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if f.ln != nil {
		f.ln.Close()
	}
	f.cutLocked()
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	fault, changed := f.fault, f.changed
	f.mu.Unlock()
	switch fault.Kind {
	case "hang":
		select {
		case <-changed:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	case "status":
		if fault.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(fault.RetryAfter))
		}
		http.Error(w, "fault of the offline control server", fault.status())
		return
	}
	switch {
	case r.URL.Path == "/key", r.URL.Path == "/ts2021", r.URL.Path == "/generate_204":
		f.control.ServeHTTP(w, r)
	case strings.HasPrefix(r.URL.Path, "/auth/"):
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(w, "This is an offline tailnet. A test logs the node in with ControlServer.complete_login(url).\n")
	default: // testcontrol would end the process
		http.NotFound(w, r)
	}
}

// order changes the first network map of each poll.
func (f *front) order(m *tailcfg.MapResponse, _ *tailcfg.MapRequest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if status := f.fault.Status; f.fault.Kind == "exit" {
		m.Debug = &tailcfg.Debug{Exit: &status}
	}
}

// registration is called for each one, and says with which HTTP status it fails; 0 is that it
// does not.
func (f *front) registration() (status int, retryAfter, message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fault.Kind == "refuse_http" {
		return f.fault.status(), "", "refused by the offline control server"
	}
	if f.fault.Kind != "rate_limit" {
		return 0, "", ""
	}
	if f.fault.RetryAfter > 0 {
		retryAfter = strconv.Itoa(f.fault.RetryAfter)
	}
	return http.StatusTooManyRequests, retryAfter, "rate limited by the offline control server"
}

// refusal is called for each registration, and says why it is refused; "" is that it is not.
func (f *front) refusal() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fault.Message
}

// holdMap is called for each request for a network map.
func (f *front) holdMap() {
	f.mu.Lock()
	fault, changed := f.fault, f.changed
	f.mu.Unlock()
	if fault.Kind == "no_map" {
		<-changed
	}
}

// tracked is a listener whose connections front can cut.
type tracked struct {
	net.Listener
	front *front
}

func (t tracked) Accept() (net.Conn, error) {
	c, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tc := &trackedConn{c, t.front}
	t.front.mu.Lock()
	t.front.conns[tc] = struct{}{}
	stale := t.front.ln != t.Listener || t.front.closed // the listener closed meanwhile
	t.front.mu.Unlock()
	if stale {
		tc.Close()
	}
	return tc, nil
}

type trackedConn struct {
	net.Conn
	front *front
}

func (c *trackedConn) Close() error {
	c.front.mu.Lock()
	delete(c.front.conns, c)
	c.front.mu.Unlock()
	return c.Conn.Close()
}

type logWriter struct{ logf logger.Logf }

func (w logWriter) Write(p []byte) (int, error) {
	w.logf("%s", strings.TrimSpace(string(p)))
	return len(p), nil
}
