package node

import (
	"context"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"tailscale.com/ipn"

	"tailnet/internal/fault"
)

// `go test` runs the seeds and what is in testdata/fuzz; `go test -fuzz NAME` looks for more.

// FuzzWhatControlSays: whatever a control server writes into its answers, an attempt to join ends
// in an error of the table, or goes on; a delay it names is a number of seconds.
func FuzzWhatControlSays(f *testing.F) {
	for _, said := range []string{
		"", "invalid key", "rate limited; retry after NaN", "rate limited (retry after Inf)", "retry after 999999h",
		"rate limited: retry after -5s", "rate limited; retry after 1e400", "key hex has the wrong size\nmore",
		"register request: http 403: \x1b[2J", "register request: http 99999999999999999999: x", "requires logging to be enabled",
		"EOF", ": EOF", "fetch control key: \xff", "no space left on device", "register request: http 500: too many open files",
	} {
		f.Add(said, "", byte(ipn.NeedsLogin), false)
		f.Add("", said, byte(ipn.NeedsLogin), true)
		f.Add(said, said, byte(ipn.Starting), false)
	}
	f.Fuzz(func(t *testing.T, message, health string, state byte, waits bool) {
		cfg := &Config{Hostname: "api", ControlURL: "http://control.test", AuthKey: "k"}
		var p progress
		s := ipn.State(state % 7)
		p.note(ipn.Notify{State: &s, ErrMessage: &message, Health: loginState(health)})
		running, err := p.decide(cfg, waits)
		if running != (s == ipn.Running) {
			t.Fatalf("running %v in state %v", running, s)
		}
		if err == nil {
			return
		}
		switch err.Code {
		case fault.Auth, fault.Connect, fault.Unsupported, fault.Resource, fault.LoginRequired:
		default:
			t.Fatalf("code %d: %s", err.Code, err.Message)
		}
		if math.IsNaN(err.RetryAfter) || math.IsInf(err.RetryAfter, 0) || err.RetryAfter < 0 {
			t.Fatalf("retry after %v: %s", err.RetryAfter, err.Message)
		}
	})
}

// FuzzLocalAPI: whatever listens at a daemon's socket and answers with whatever bytes, a question
// ends in an answer or an error with a code, in time.
func FuzzLocalAPI(f *testing.F) {
	for _, answer := range []string{
		"", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull",
		"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "HTTP/1.1 200 OK\r\n\r\n{\"BackendState\":\"Running\",\"Self\":null}",
		"HTTP/1.1 200 OK\r\n\r\n{\"BackendState\":\"\\u001b[2J\",\"Self\":{\"ID\":\"n\",\"DNSName\":\"\\n\"}}",
		"HTTP/1.1 403 no\x1b\r\n\r\n{\"error\":3}", "HTTP/1.1 500 \xff\r\n\r\n", "SSH-2.0-x\r\n", "HTTP/1.1 100 Continue\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
	} {
		f.Add([]byte(answer))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		socket := filepath.Join(t.TempDir(), "s")
		ln, err := net.Listen("unix", socket)
		if err != nil {
			t.Skip(err) // the path of a test is too long for a socket
		}
		defer ln.Close()
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				c.Read(make([]byte, 4096))
				c.Write(answer)
				c.Close()
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		s := newSidecar(&Config{Backend: "tailscaled", TailscaledSocket: socket, LogLevel: "info", ConnectTimeout: 0.1})
		l, err := s.reach(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer l.end()
		_, joining := l.join(ctx, UpArgs{})
		l.self = &Identity{Hostname: "api"}
		_, asking := l.session.status(ctx)
		_, who := l.session.whois(ctx, netip.MustParseAddr("100.64.0.7"))
		for _, err := range []error{joining, asking, who, l.whyNot(ctx), l.whyGone(ctx)} {
			if err != nil && fault.Of(err).Code == fault.Internal {
				t.Fatalf("%v", err)
			}
		}
		if ctx.Err() != nil {
			t.Fatal("it took until the deadline")
		}
	})
}

// FuzzAddress: an address of any form is one that spells itself again, or an error of the caller's.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{"", ":", ":80", "a:80", "[fd7a::1]:80", "a:65536", "a:-1", "[::1%\x1b]:1", "a:0x50", "\xff:1", "a:b:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			if fault.Of(err).Code != fault.Config {
				t.Fatalf("%v", err)
			}
			return
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a {
			t.Fatalf("%q is %v, which is %v, %v", s, a, again, err)
		}
	})
}
