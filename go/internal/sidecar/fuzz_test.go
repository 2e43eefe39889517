package sidecar

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"tailnet/internal/config"
	"tailnet/internal/fault"
	"tailnet/internal/session"
)

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
		s := New(&config.Config{Backend: "tailscaled", TailscaledSocket: socket, LogLevel: "info", ConnectTimeout: 0.1})
		l, err := s.reach(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer l.end()
		_, joining := l.join(ctx, session.UpArgs{})
		l.Self = &session.Identity{Hostname: "api"}
		_, asking := l.Session.Status(ctx)
		_, who := l.Session.Whois(ctx, netip.MustParseAddr("100.64.0.7"))
		for _, err := range []error{joining, asking, who, l.WhyNot(ctx), l.WhyGone(ctx)} {
			if err != nil && fault.Of(err).Code == fault.Internal {
				t.Fatalf("%v", err)
			}
		}
		if ctx.Err() != nil {
			t.Fatal("it took until the deadline")
		}
	})
}
