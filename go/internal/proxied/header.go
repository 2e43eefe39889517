// Package proxied takes connections that a tailscaled forwards to a port of this host,
// with a PROXY protocol header in front: it reads the header, and finds out who sent it.
// Any local user can connect there and write a header, so it is worth what the uid is
// worth that owns the other end.
//
// Read header.go, owner_linux.go, peer.go, in this order.
package proxied

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"
)

const (
	// fixedSize is the signature (12), version and command (1), family and protocol (1),
	// and the length of the rest (2): haproxy's proxy-protocol.txt, section 2.2.
	fixedSize = 16

	// largestHeader is what every TCP segment has room for: proxy-protocol.txt designs its
	// headers to fit into 576 - 40 bytes. tailscaled's have 28 or 52 (forwardTCPWithProxyProtocol
	// in ipn/ipnlocal/serve.go sets no TLVs); the format itself allows 64 KiB.
	largestHeader = 536
)

// ReadHeader reads the PROXY protocol v2 header that c begins with, and no byte more:
// what follows is still to be read from c. The whole header must have come when limit has
// passed. After an error c is of no use but to be closed.
func ReadHeader(c *net.TCPConn, limit time.Duration) (src, dst netip.AddrPort, err error) {
	if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return src, dst, fmt.Errorf("PROXY header: %w", err)
	}
	src, dst, err = readHeader(c)
	if err == nil {
		err = c.SetReadDeadline(time.Time{})
	}
	if err != nil {
		return netip.AddrPort{}, netip.AddrPort{}, fmt.Errorf("PROXY header: %w", err)
	}
	return src, dst, nil
}

// readHeader makes two reads of known length, because a buffered reader, which is all that
// go-proxyproto reads from, would take what follows too.
func readHeader(r io.Reader) (src, dst netip.AddrPort, err error) {
	b := make([]byte, largestHeader)
	if _, err := io.ReadFull(r, b[:fixedSize]); err != nil {
		return src, dst, err
	}
	if !bytes.HasPrefix(b, proxyproto.SIGV2) {
		return src, dst, proxyproto.ErrNoProxyProtocol // or version 1, which tailscaled was not asked for
	}
	// LOCAL speaks for the proxy itself (a health check), and has no addresses. Here also
	// falls what is not version 2.
	if b[12] != byte(proxyproto.PROXY) {
		return src, dst, fmt.Errorf("version and command %#02x", b[12])
	}
	if f := proxyproto.AddressFamilyAndProtocol(b[13]); f != proxyproto.TCPv4 && f != proxyproto.TCPv6 {
		return src, dst, fmt.Errorf("family and protocol %#02x, which is not TCP", b[13])
	}
	size := fixedSize + int(binary.BigEndian.Uint16(b[14:]))
	if size > largestHeader {
		return src, dst, fmt.Errorf("%d bytes long, more than %d", size, largestHeader)
	}
	if _, err := io.ReadFull(r, b[fixedSize:size]); err != nil {
		return src, dst, err
	}
	h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(b[:size])))
	if err != nil {
		return src, dst, err
	}
	if _, err := h.TLVs(); err != nil { // not needed, but they must be well-formed
		return src, dst, err
	}
	s, d, ok := h.TCPAddrs()
	if !ok {
		return src, dst, errors.New("no TCP addresses")
	}
	return unmap(s.AddrPort()), unmap(d.AddrPort()), nil
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
