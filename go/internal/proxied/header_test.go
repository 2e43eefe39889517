package proxied

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
)

// soon is a limit that what is there already keeps, long that of what must not be cut off.
const soon, long = 50 * time.Millisecond, 10 * time.Second

// pair is an accepted connection and its other end.
func pair(t testing.TB, address string) (accepted, dialed *net.TCPConn) {
	t.Helper()
	ln := listen(t, address)
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return accept(t, ln), c.(*net.TCPConn)
}

func listen(t testing.TB, address string) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Skipf("no listener at %s: %v", address, err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

func accept(t testing.TB, ln *net.TCPListener) *net.TCPConn {
	t.Helper()
	c, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// header is formatted by go-proxyproto, as tailscaled's are.
func header(t testing.TB, src, dst string, tlvs ...proxyproto.TLV) []byte {
	t.Helper()
	h := proxyproto.HeaderProxyFromAddrs(2, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(src)),
		net.TCPAddrFromAddrPort(netip.MustParseAddrPort(dst)))
	if err := h.SetTLVs(tlvs); err != nil {
		t.Fatal(err)
	}
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func padding(n int) proxyproto.TLV {
	return proxyproto.TLV{Type: proxyproto.PP2_TYPE_NOOP, Value: make([]byte, n)}
}

const (
	src4, dst4 = "100.64.0.7:41234", "100.64.0.1:8080"
	src6, dst6 = "[fd7a:115c:a1e0::7]:41234", "[fd7a:115c:a1e0::1]:8080"
)

func TestHeaderIsReadAndNoByteMore(t *testing.T) {
	mapped := header(t, src6, dst6) // an IPv6 header about IPv4
	copy(mapped[16:], netip.MustParseAddr("::ffff:100.64.0.7").AsSlice())
	copy(mapped[32:], netip.MustParseAddr("::ffff:100.64.0.1").AsSlice())
	for name, c := range map[string]struct {
		header   []byte
		src, dst string
	}{
		"IPv4":    {header(t, src4, dst4), src4, dst4},
		"IPv6":    {header(t, src6, dst6), src6, dst6},
		"mapped":  {mapped, src4, dst4},
		"TLVs":    {header(t, src4, dst4, padding(3), padding(0)), src4, dst4},
		"largest": {header(t, src6, dst6, padding(largestHeader-52-3)), src6, dst6},
	} {
		accepted, dialed := pair(t, "127.0.0.1:0")
		dialed.Write(append(c.header, "what follows"...))
		dialed.CloseWrite()
		src, dst, err := ReadHeader(accepted, long)
		if err != nil || src.String() != c.src || dst.String() != c.dst {
			t.Errorf("%s: %v to %v, %v", name, src, dst, err)
		}
		if rest, err := io.ReadAll(accepted); string(rest) != "what follows" || err != nil {
			t.Errorf("%s: followed by %q, %v", name, rest, err)
		}
	}
}

func TestHeaderMayComeInPieces(t *testing.T) {
	accepted, dialed := pair(t, "127.0.0.1:0")
	go func() {
		for _, b := range header(t, src4, dst4) {
			dialed.Write([]byte{b})
		}
	}()
	if src, _, err := ReadHeader(accepted, long); err != nil || src.String() != src4 {
		t.Errorf("%v, %v", src, err)
	}
}

func TestTheLimitIsClearedAfterwards(t *testing.T) {
	accepted, dialed := pair(t, "127.0.0.1:0")
	dialed.Write(header(t, src4, dst4))
	if _, _, err := ReadHeader(accepted, soon); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(2*soon, func() { dialed.Write([]byte("x")) })
	if _, err := accepted.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// edited is an IPv4 header with the bytes from at on replaced.
func edited(t testing.TB, at int, b ...byte) []byte {
	h := header(t, src4, dst4)
	copy(h[at:], b)
	return h
}

func malformed(t testing.TB) map[string][]byte {
	long := header(t, src4, dst4, padding(largestHeader-28-3+1))
	unix := append(edited(t, 13, byte(proxyproto.UnixStream), 0, 216), make([]byte, 216-12)...)
	return map[string][]byte{
		"nothing":           nil,
		"garbage":           []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"version 1":         []byte("PROXY TCP4 100.64.0.7 100.64.0.1 41234 8080\r\n"),
		"version 3":         edited(t, 12, 0x31),
		"LOCAL":             edited(t, 12, byte(proxyproto.LOCAL)),
		"LOCAL and empty":   edited(t, 12, byte(proxyproto.LOCAL), 0, 0, 0)[:16],
		"command 2":         edited(t, 12, 0x22),
		"no family":         edited(t, 13, byte(proxyproto.UNSPEC)),
		"family 4":          edited(t, 13, 0x41),
		"protocol 3":        edited(t, 13, 0x13),
		"UDP":               edited(t, 13, byte(proxyproto.UDPv4)),
		"UNIX":              unix,
		"too long":          long,
		"longest":           append(edited(t, 14, 0xff, 0xff), make([]byte, 0xffff-12)...),
		"no addresses":      edited(t, 14, 0, 0)[:16],
		"too short":         edited(t, 14, 0, 11),
		"too short for v6":  edited(t, 13, byte(proxyproto.TCPv6)),
		"signature cut off": header(t, src4, dst4)[:11],
		"cut off":           header(t, src4, dst4)[:27],
		"signature changed": edited(t, 11, 0x0b),
		"half a TLV":        append(edited(t, 14, 0, 14), 4, 0),
		"TLV too long":      append(edited(t, 14, 0, 15), 4, 0, 1),
	}
}

func TestMalformedHeadersAreRefused(t *testing.T) {
	for name, b := range malformed(t) {
		accepted, dialed := pair(t, "127.0.0.1:0")
		go func() { dialed.Write(b); dialed.CloseWrite() }()
		src, dst, err := ReadHeader(accepted, long)
		t.Logf("%s: %v", name, err)
		if err == nil || src.IsValid() || dst.IsValid() || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v to %v, %v", name, src, dst, err)
		}
	}
}

func TestSlowHeadersAreRefused(t *testing.T) {
	h := header(t, src4, dst4)
	for n := range h { // so many bytes, and then nothing
		if n%9 != 0 {
			continue
		}
		accepted, dialed := pair(t, "127.0.0.1:0")
		dialed.Write(h[:n])
		if _, _, err := ReadHeader(accepted, soon); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	accepted, dialed := pair(t, "127.0.0.1:0")
	go func() {
		for _, b := range h { // each is in time for itself
			time.Sleep(soon / 2)
			dialed.Write([]byte{b})
		}
	}()
	if _, _, err := ReadHeader(accepted, 2*soon); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a byte now and then: %v", err)
	}
}

func FuzzReadHeader(f *testing.F) {
	for _, b := range malformed(f) {
		f.Add(b)
	}
	f.Add(header(f, src4, dst4))
	f.Add(append(header(f, src6, dst6, padding(3)), "what follows"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		src, dst, err := readHeader(r)
		taken := len(b) - r.Len()
		if taken > largestHeader {
			t.Errorf("%d bytes were read", taken)
		}
		if err != nil {
			if src.IsValid() || dst.IsValid() {
				t.Errorf("%v to %v, and %v", src, dst, err)
			}
			return
		}
		if want := 16 + int(binary.BigEndian.Uint16(b[14:])); taken != want {
			t.Errorf("%d bytes were read of a header of %d", taken, want)
		}
		if !src.IsValid() || !dst.IsValid() || src.Addr().Is4In6() || dst.Addr().Is4In6() {
			t.Errorf("%v to %v", src, dst)
		}
	})
}

// FuzzHeader: whatever comes, what is taken for a header is one of this size and no byte of what
// follows, and go-proxyproto reads the same addresses in it.
func FuzzHeader(f *testing.F) {
	v4, v6 := header(f, "100.64.0.7:41234", "100.64.0.1:80"), header(f, "[fd7a::7]:41234", "[fd7a::1]:80")
	f.Add(v4)
	f.Add(append(v6, "GET / HTTP/1.1"...))
	f.Add(header(f, "100.64.0.7:1", "100.64.0.1:2", padding(100)))
	f.Add(v4[:20])
	f.Add([]byte("PROXY TCP4 100.64.0.7 100.64.0.1 41234 80\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		src, dst, err := readHeader(r)
		if err != nil {
			return
		}
		size := len(b) - r.Len()
		if want := fixedSize + int(binary.BigEndian.Uint16(b[14:])); size != want || size > largestHeader {
			t.Fatalf("%d bytes were read of a header of %d", size, want)
		}
		h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			t.Fatalf("go-proxyproto reads no header there: %v", err)
		}
		s, d, ok := h.TCPAddrs()
		if !ok || unmap(s.AddrPort()) != src || unmap(d.AddrPort()) != dst || !src.IsValid() || !dst.IsValid() {
			t.Fatalf("%v to %v, and go-proxyproto reads %v to %v", src, dst, s, d)
		}
	})
}
