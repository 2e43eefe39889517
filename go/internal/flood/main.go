// Command flood is a hostile peer, for tests: a plain tsnet node that sends SYNs from its IPv4 and
// its IPv6 address, each from a port of its own, and ignores every answer. Its own TCP would reset
// the connections that it does not know; a filter drops all TCP before that sees it.
//
// It prints "ready" once it has joined. Each line of its standard input then names a target,
// "<IPv4 address> <IPv6 address> <port> <count>", and is answered with "sent".
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"tailscale.com/ipn/store/mem"
	"tailscale.com/net/packet"
	"tailscale.com/net/tstun"
	"tailscale.com/tsnet"
	"tailscale.com/types/ipproto"
	"tailscale.com/wgengine/filter"
)

func main() {
	hostname := flag.String("hostname", "flood", "of the node")
	control := flag.String("control", "", "URL of the control server")
	key := flag.String("key", "", "to join with")
	flag.Parse()
	if err := run(*hostname, *control, *key); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(hostname, control, key string) error {
	dir, err := os.MkdirTemp("", "tailnet-flood-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	quiet := func(string, ...any) {}
	store, err := mem.New(quiet, "")
	if err != nil {
		return err
	}
	s := &tsnet.Server{Dir: dir, Store: store, Hostname: hostname, ControlURL: control, AuthKey: key, Ephemeral: true, UserLogf: quiet}
	st, err := s.Up(context.Background())
	if err != nil {
		return err
	}
	tun := s.Sys().Tun.Get()
	tun.PreFilterPacketInboundFromWireGuard = func(p *packet.Parsed, _ *tstun.Wrapper) filter.Response {
		if p.IPProto == ipproto.TCP {
			return filter.DropSilently
		}
		return filter.Accept
	}
	fmt.Println("ready")
	port := uint16(1024) // of the next SYN
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var to [2]string
		var toPort uint16
		var count int
		if _, err := fmt.Sscan(lines.Text(), &to[0], &to[1], &toPort, &count); err != nil {
			return err
		}
		for i := range count {
			dst, err := netip.ParseAddr(to[i%2])
			if err != nil {
				return err
			}
			if err := tun.InjectOutbound(syn(netip.AddrPortFrom(own(st.TailscaleIPs, dst), port), netip.AddrPortFrom(dst, toPort))); err != nil {
				return err
			}
			if i%2 == 1 {
				port = max(port+1, 1024)
			}
		}
		fmt.Println("sent")
	}
	return nil
}

func own(ips []netip.Addr, as netip.Addr) netip.Addr {
	for _, ip := range ips {
		if ip.Is4() == as.Is4() {
			return ip
		}
	}
	return ips[0]
}

// syn is a whole packet that asks for a connection.
func syn(from, to netip.AddrPort) []byte {
	const size = header.TCPMinimumSize
	src, dst := tcpip.AddrFromSlice(from.Addr().AsSlice()), tcpip.AddrFromSlice(to.Addr().AsSlice())
	headerSize := header.IPv6MinimumSize
	if from.Addr().Is4() {
		headerSize = header.IPv4MinimumSize
	}
	b := make([]byte, headerSize+size)
	if from.Addr().Is4() {
		ip := header.IPv4(b)
		ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber), SrcAddr: src, DstAddr: dst})
		ip.SetChecksum(^ip.CalculateChecksum())
	} else {
		header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: size, TransportProtocol: header.TCPProtocolNumber, HopLimit: 64, SrcAddr: src, DstAddr: dst})
	}
	tcp := header.TCP(b[headerSize:])
	tcp.Encode(&header.TCPFields{SrcPort: from.Port(), DstPort: to.Port(), SeqNum: uint32(from.Port()) << 8,
		DataOffset: size, Flags: header.TCPFlagSyn, WindowSize: 65535})
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, src, dst, size)
	tcp.SetChecksum(^tcp.CalculateChecksum(sum))
	return b
}
