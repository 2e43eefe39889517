// Command bench is one end of a benchmark in Go: what benchmarks/end.py is in Python, with
// the same commands and the same work, so that either may be at either end. It is what a Go
// program would write: tsnet's Listen and Dial, a goroutine a connection, and no tuning.
//
// Read next: serve.go (what it serves), work.go (what it measures).
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime/pprof"
	"strconv"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/ipn/store/mem"
	"tailscale.com/tsnet"
)

// closeLimit is how long tsnet's Close is waited for: it can block for good.
const closeLimit = 4 * time.Second

// network is how this end listens and dials.
type network struct {
	listen func(port int) (net.Listener, error)
	dial   func(address string) (net.Conn, error)
	local  *local.Client // nil without a tailnet
	close  func() error
	clean  func() // removes what it had on disk; close may hang
}

type request struct {
	Do      string            `json:"do"`
	Address map[string]string `json:"address"` // of the other end, by service
	Kind    string            `json:"kind"`
	Streams int               `json:"streams"`
	Bytes   int64             `json:"bytes"`
	Size    int               `json:"size"`
	Count   int               `json:"count"`
	Workers int               `json:"workers"`
	Keep    bool              `json:"keep"`
	Path    string            `json:"path"`
	File    string            `json:"file"`
}

func main() {
	transport := flag.String("transport", "tsnet", "tsnet or raw")
	role := flag.String("role", "client", "server or client")
	hostname := flag.String("hostname", "bench", "of the node")
	control := flag.String("control", "", "URL of the control server")
	key := flag.String("key", "", "to join with")
	flag.Parse()
	if err := run(*transport, *role, *hostname, *control, *key); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(transport, role, hostname, control, key string) error {
	began := time.Now()
	nw, ip, err := join(transport, hostname, control, key)
	if err != nil {
		return err
	}
	defer nw.clean()
	ready := map[string]any{"start_ms": ms(time.Since(began)), "ip": ip}
	if role == "server" {
		address, err := serve(nw, ip)
		if err != nil {
			return err
		}
		ready["address"] = address
	}
	answers := json.NewEncoder(os.Stdout)
	answers.Encode(ready)
	w := &work{nw: nw}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return err
		}
		answer, err := w.do(r)
		if err != nil {
			answer = map[string]any{"error": err.Error()}
		}
		answers.Encode(answer)
		if r.Do == "close" {
			return nil
		}
	}
	return nil
}

func join(transport, hostname, control, key string) (*network, string, error) {
	if transport == "raw" {
		return &network{
			listen: func(int) (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") },
			dial:   func(address string) (net.Conn, error) { return net.Dial("tcp", address) },
			close:  func() error { return nil },
			clean:  func() {},
		}, "127.0.0.1", nil
	}
	dir, err := os.MkdirTemp("", "tailnet-bench-")
	if err != nil {
		return nil, "", err
	}
	quiet := func(string, ...any) {}
	store, err := mem.New(quiet, "")
	if err != nil {
		return nil, "", err
	}
	s := &tsnet.Server{Dir: dir, Store: store, Hostname: hostname, ControlURL: control, AuthKey: key, Ephemeral: true, UserLogf: quiet}
	st, err := s.Up(context.Background())
	if err != nil {
		return nil, "", err
	}
	lc, err := s.LocalClient()
	if err != nil {
		return nil, "", err
	}
	return &network{
		listen: func(port int) (net.Listener, error) { return s.Listen("tcp", ":"+strconv.Itoa(port)) },
		dial:   func(address string) (net.Conn, error) { return s.Dial(context.Background(), "tcp", address) },
		local:  lc,
		close:  s.Close,
		clean:  func() { os.RemoveAll(dir) },
	}, st.TailscaleIPs[0].String(), nil
}

func (w *work) do(r request) (any, error) {
	if r.Address != nil {
		w.address = r.Address
	}
	switch r.Do {
	case "first_dial":
		return w.firstDial()
	case "stream":
		return w.stream(r.Kind, r.Streams, r.Bytes)
	case "round_trip":
		return w.roundTrip(r.Size, r.Count)
	case "connect":
		return w.connect(r.Count, r.Workers)
	case "hold":
		return w.hold(r.Count, r.Workers)
	case "release":
		return w.release()
	case "http":
		return w.http(r.Count, r.Workers, r.Keep, r.Path)
	case "http_on":
		return map[string]any{}, nil // it serves from the beginning
	case "whois":
		return w.whois(r.Count)
	case "path":
		return w.path()
	case "profile": // begins where a file is named, and ends where not
		if r.File == "" {
			pprof.StopCPUProfile()
			return map[string]any{}, nil
		}
		f, err := os.Create(r.File)
		if err != nil {
			return nil, err
		}
		return map[string]any{}, pprof.StartCPUProfile(f)
	case "close":
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- w.nw.close() }()
		select {
		case <-done:
		case <-time.After(closeLimit):
		}
		return map[string]any{"seconds": time.Since(began).Seconds()}, nil
	}
	return nil, fmt.Errorf("no such command: %q", r.Do)
}

// path says which way the packets to the other end take: "ip:port", or "" through a relay.
func (w *work) path() (any, error) {
	if w.nw.local == nil {
		return map[string]any{"direct": "loopback"}, nil
	}
	st, err := w.nw.local.Status(context.Background())
	if err != nil {
		return nil, err
	}
	there, err := netip.ParseAddrPort(w.address["echo"])
	if err != nil {
		return nil, err
	}
	for _, p := range st.Peer {
		for _, ip := range p.TailscaleIPs {
			if ip == there.Addr() {
				return map[string]any{"direct": p.CurAddr}, nil
			}
		}
	}
	return map[string]any{"direct": ""}, nil
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }
