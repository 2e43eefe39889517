package node

import (
	"context"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/stack/gro"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// delivered counts what a netstack would be given.
type delivered int

func (d *delivered) DeliverNetworkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) { *d++ }
func (d *delivered) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer)    {}

// TestFlushGivesAll fails where build_patches.py was not applied.
func TestFlushGivesAll(t *testing.T) {
	var g gro.GRO
	g.Init(true)
	var got delivered
	g.Dispatcher = &got
	for _, port := range []uint16{8, 16, 24} { // flows that share a bucket, of which there are 8
		b := make([]byte, header.IPv4MinimumSize+header.TCPMinimumSize+100)
		header.IPv4(b).Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber),
			SrcAddr: tcpip.AddrFrom4([4]byte{100, 64, 0, 1}), DstAddr: tcpip.AddrFrom4([4]byte{100, 64, 0, 2})})
		header.TCP(b[header.IPv4MinimumSize:]).Encode(&header.TCPFields{SrcPort: port, DstPort: 80, Flags: header.TCPFlagAck,
			DataOffset: header.TCPMinimumSize})
		p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
		p.NetworkProtocolNumber, p.RXChecksumValidated = header.IPv4ProtocolNumber, true
		g.Enqueue(p)
		p.DecRef()
	}
	if got != 0 {
		t.Fatalf("%d packets were not held back: this tests nothing", got)
	}
	g.Flush()
	if got != 3 {
		t.Errorf("%d of 3 packets came with Flush", got)
	}
}

// wire is the peer of a netstack's one connection, played by hand.
type wire struct {
	t    *testing.T
	link *channel.Endpoint
}

var (
	ourAddress  = tcpip.AddrFrom4([4]byte{100, 64, 0, 1})
	peerAddress = tcpip.AddrFrom4([4]byte{100, 64, 0, 2})
)

// until returns the next segment that has the flags.
func (w wire) until(flags header.TCPFlags) header.TCP {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		p := w.link.ReadContext(ctx)
		if p == nil {
			w.t.Fatalf("no segment with the flags %v", flags)
		}
		b := p.ToView()
		segment := header.TCP(header.IPv4(b.AsSlice()).Payload())
		p.DecRef()
		if segment.Flags().Contains(flags) {
			return segment
		}
	}
}

// answer sends a segment to where one came from.
func (w wire) answer(to header.TCP, flags header.TCPFlags, seq, ack uint32) {
	b := make([]byte, header.IPv4MinimumSize+header.TCPMinimumSize)
	ip := header.IPv4(b)
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber),
		SrcAddr: peerAddress, DstAddr: ourAddress})
	ip.SetChecksum(^ip.CalculateChecksum())
	segment := header.TCP(b[header.IPv4MinimumSize:])
	segment.Encode(&header.TCPFields{SrcPort: to.DestinationPort(), DstPort: to.SourcePort(), SeqNum: seq, AckNum: ack,
		Flags: flags, DataOffset: header.TCPMinimumSize, WindowSize: 30000})
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, peerAddress, ourAddress, header.TCPMinimumSize)
	segment.SetChecksum(^checksum.Checksum(segment, sum))
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	w.link.InjectInbound(header.IPv4ProtocolNumber, p)
	p.DecRef()
}

// TestAFinSentAgainChangesNoState fails where build_patches.py was not applied.
func TestAFinSentAgainChangesNoState(t *testing.T) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	defer s.Close()
	w := wire{t, channel.New(64, 1280, "")}
	s.CreateNIC(1, w.link)
	s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: header.IPv4ProtocolNumber,
		AddressWithPrefix: ourAddress.WithPrefix()}, stack.AddressProperties{})
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}})
	var queue waiter.Queue
	e, err := s.NewEndpoint(header.TCPProtocolNumber, header.IPv4ProtocolNumber, &queue)
	if err != nil {
		t.Fatal(err)
	}
	state := func(want tcp.EndpointState) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); tcp.EndpointState(e.State()) != want; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("in state %v, not %v", tcp.EndpointState(e.State()), want)
			}
		}
	}

	e.Connect(tcpip.FullAddress{Addr: peerAddress, Port: 80})
	syn := w.until(header.TCPFlagSyn)
	ours := syn.SequenceNumber() + 1
	w.answer(syn, header.TCPFlagSyn|header.TCPFlagAck, 0, ours)
	state(tcp.StateEstablished)
	e.Close()
	w.until(header.TCPFlagFin)
	w.answer(syn, header.TCPFlagFin|header.TCPFlagAck, 1, ours) // crosses ours: it does not acknowledge it
	state(tcp.StateClosing)
	w.until(header.TCPFlagFin) // again, for nobody has acknowledged it
	w.answer(syn, header.TCPFlagAck, 2, ours+1)
	state(tcp.StateTimeWait)
}
