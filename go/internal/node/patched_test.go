package node

import (
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/stack/gro"
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
