package embedded

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/stack/gro"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
	"tailscale.com/control/controlhttp"
	"tailscale.com/types/key"
)

// delivered counts what a netstack would be given.
type delivered int

func (d *delivered) DeliverNetworkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) { *d++ }

func (d *delivered) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}

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
	t      *testing.T
	link   *channel.Endpoint
	window uint16        // the peer's
	taken  *atomic.Int64 // how many segments from the peer our end has processed
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
	w.send(to.DestinationPort(), to.SourcePort(), flags, seq, ack)
}

func (w wire) send(from, to uint16, flags header.TCPFlags, seq, ack uint32) {
	b := make([]byte, header.IPv4MinimumSize+header.TCPMinimumSize)
	ip := header.IPv4(b)
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber),
		SrcAddr: peerAddress, DstAddr: ourAddress})
	ip.SetChecksum(^ip.CalculateChecksum())
	segment := header.TCP(b[header.IPv4MinimumSize:])
	segment.Encode(&header.TCPFields{SrcPort: from, DstPort: to, SeqNum: seq, AckNum: ack,
		Flags: flags, DataOffset: header.TCPMinimumSize, WindowSize: w.window})
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, peerAddress, ourAddress, header.TCPMinimumSize)
	segment.SetChecksum(^checksum.Checksum(segment, sum))
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	w.link.InjectInbound(header.IPv4ProtocolNumber, p)
	p.DecRef()
}

// newStack makes a netstack with one address, and the other end of its wire.
func newStack(t *testing.T) (*stack.Stack, wire) { return newStackAt(t, nil) }

func newStackAt(t *testing.T, clock tcpip.Clock) (*stack.Stack, wire) {
	taken := new(atomic.Int64)
	protocol := tcp.NewProtocolProbe(func(*tcp.TCPEndpointState) { taken.Add(1) })
	s := stack.New(stack.Options{
		Clock:              clock,
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{protocol},
	})
	t.Cleanup(s.Close)
	w := wire{t, channel.New(64, 1280, ""), 30000, taken}
	s.CreateNIC(1, w.link)
	s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: header.IPv4ProtocolNumber,
		AddressWithPrefix: ourAddress.WithPrefix()}, stack.AddressProperties{})
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}})
	return s, w
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so: %s", what)
		}
	}
}

func awaitState(t *testing.T, e tcpip.Endpoint, want ...tcp.EndpointState) {
	t.Helper()
	eventually(t, fmt.Sprint(want), func() bool { return slices.Contains(want, tcp.EndpointState(e.State())) })
}

// TestAFinSentAgainChangesNoState fails where build_patches.py was not applied.
func TestAFinSentAgainChangesNoState(t *testing.T) {
	s, w := newStack(t)
	var queue waiter.Queue
	e, err := s.NewEndpoint(header.TCPProtocolNumber, header.IPv4ProtocolNumber, &queue)
	if err != nil {
		t.Fatal(err)
	}

	e.Connect(tcpip.FullAddress{Addr: peerAddress, Port: 80})
	syn := w.until(header.TCPFlagSyn)
	ours := syn.SequenceNumber() + 1
	w.answer(syn, header.TCPFlagSyn|header.TCPFlagAck, 0, ours)
	awaitState(t, e, tcp.StateEstablished)
	e.Close()
	w.until(header.TCPFlagFin)
	w.answer(syn, header.TCPFlagFin|header.TCPFlagAck, 1, ours) // crosses ours: it does not acknowledge it
	awaitState(t, e, tcp.StateClosing)
	w.until(header.TCPFlagFin) // again, for nobody has acknowledged it
	w.answer(syn, header.TCPFlagAck, 2, ours+1)
	awaitState(t, e, tcp.StateTimeWait)
}

// TestAClosedWindowIsKeptWhileProbesAreAnswered fails where build_patches.py was not applied.
func TestAClosedWindowIsKeptWhileProbesAreAnswered(t *testing.T) {
	const step = 2 * time.Minute // the longest time between two probes
	for name, spare := range map[string]bool{"by default": true, "as set": false} {
		t.Run(name, func(t *testing.T) {
			clock := faketime.NewManualClock()
			s, w := newStackAt(t, clock)
			w.window = 0
			e, err := s.NewEndpoint(header.TCPProtocolNumber, header.IPv4ProtocolNumber, new(waiter.Queue))
			if err != nil {
				t.Fatal(err)
			}
			limit := tcpip.TCPUserTimeoutOption(step)
			e.SetSockOpt(&limit)
			e.(*tcp.Endpoint).LockUser()
			e.(*tcp.Endpoint).SpareClosedWindow = spare
			e.(*tcp.Endpoint).UnlockUser()
			e.Connect(tcpip.FullAddress{Addr: peerAddress, Port: 80})
			syn := w.until(header.TCPFlagSyn)
			ours := syn.SequenceNumber() + 1
			w.answer(syn, header.TCPFlagSyn|header.TCPFlagAck, 0, ours)
			awaitState(t, e, tcp.StateEstablished)
			w.until(header.TCPFlagAck)
			if _, err := e.Write(bytes.NewReader([]byte("x")), tcpip.WriteOptions{}); err != nil {
				t.Fatal(err)
			}
			if !spare {
				clock.Advance(time.Second)
				w.until(header.TCPFlagAck)
				w.answer(syn, header.TCPFlagAck, 1, ours)
				clock.Advance(step)
				awaitState(t, e, tcp.StateError)
				return
			}
			await := func() {
				for w.link.NumQueued() == 0 { // one probe: several may come in one step
					clock.Advance(time.Second)
				}
				w.until(header.TCPFlagAck)
			}
			for probe := range 60 { // two hours, with 20 probes lost
				await()
				if probe%3 > 0 {
					before := w.taken.Load()
					w.answer(syn, header.TCPFlagAck, 1, ours)
					eventually(t, "the answer is taken in", func() bool { return w.taken.Load() > before })
				}
			}
			for range 4 {
				await()
			}
			clock.Advance(step)
			awaitState(t, e, tcp.StateError)
		})
	}
}

// inTimeWait makes a connection from port 1000 that a Forwarder, as Tailscale's netstack has one,
// accepts, and that our end closes first.
func inTimeWait(t *testing.T, timeWait time.Duration) (wire, *tcp.Endpoint) {
	s, w := newStack(t)
	opt := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	s.SetTransportProtocolOption(header.TCPProtocolNumber, &opt)
	accepted := make(chan tcpip.Endpoint, 2)
	forwarder := tcp.NewForwarder(s, 0, 8, func(r *tcp.ForwarderRequest) {
		var queue waiter.Queue
		e, err := r.CreateEndpoint(&queue)
		r.Complete(err != nil)
		if err == nil {
			accepted <- e
		}
	})
	s.SetTransportProtocolHandler(header.TCPProtocolNumber, forwarder.HandlePacket)

	w.send(1000, 80, header.TCPFlagSyn, 0, 0)
	syn := w.until(header.TCPFlagSyn | header.TCPFlagAck)
	w.answer(syn, header.TCPFlagAck, 1, syn.SequenceNumber()+1)
	e := <-accepted
	e.Close()
	fin := w.until(header.TCPFlagFin)
	w.answer(fin, header.TCPFlagFin|header.TCPFlagAck, 1, fin.SequenceNumber()+1)
	w.until(header.TCPFlagAck)
	awaitState(t, e, tcp.StateTimeWait, tcp.StateClose) // it may be over before we look
	return w, e.(*tcp.Endpoint)
}

// TestASynEndsTimeWait fails where build_patches.py was not applied.
func TestASynEndsTimeWait(t *testing.T) {
	w, _ := inTimeWait(t, time.Minute)
	w.send(1000, 80, header.TCPFlagSyn, 5000, 0)
	if syn := w.until(header.TCPFlagSyn); syn.AckNumber() != 5001 {
		t.Errorf("acknowledges %d", syn.AckNumber())
	}
}

// TestASynThatMeetsTheEndIsNotReset fails where build_patches.py was not applied: the SYN waits to
// be looked at, and so does the end of TIME_WAIT. Either may be first.
func TestASynThatMeetsTheEndIsNotReset(t *testing.T) {
	met := 0
	for try := 0; met < 20 && try < 100 && !t.Failed(); try++ {
		t.Run("", func(t *testing.T) { // its stack ends with it
			w, e := inTimeWait(t, 20*time.Millisecond)
			func() {
				e.LockUser()
				defer e.UnlockUser()
				w.send(1000, 80, header.TCPFlagSyn, 5000, 0)
				if e.EndpointState() != tcp.StateTimeWait { // else it stays so until we unlock
					return
				}
				met++
				eventually(t, "its time is over", func() bool {
					all := make([]byte, 1<<20)
					return bytes.Contains(all[:runtime.Stack(all, true)], []byte("timeWaitTimerExpired"))
				})
			}()
			if syn := w.until(header.TCPFlagSyn); syn.AckNumber() != 5001 {
				t.Errorf("acknowledges %d", syn.AckNumber())
			}
		})
	}
	if met == 0 {
		t.Error("TIME_WAIT was always over before a SYN came: this tests nothing")
	}
}

// TestASynAckLeavesTimeWait fails where a patch hands more than the SYN of a new connection on.
func TestASynAckLeavesTimeWait(t *testing.T) {
	w, e := inTimeWait(t, time.Minute)
	w.send(1000, 80, header.TCPFlagSyn|header.TCPFlagAck, 5000, 1)
	w.send(1000, 80, header.TCPFlagAck, 9000, 1) // is answered, in TIME_WAIT only, after what came before
	w.until(header.TCPFlagAck)
	if state := e.EndpointState(); state != tcp.StateTimeWait {
		t.Errorf("in state %v", state)
	}
}

// TestAControlServerOfPlainHTTPFailsAtOnce waits for the deadline where build_patches.py was not applied.
func TestAControlServerOfPlainHTTPFailsAtOnce(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(ln.Addr().String())
	ln.Close()
	d := &controlhttp.Dialer{
		Hostname: host, HTTPPort: port, HTTPSPort: controlhttp.NoPort, Dialer: new(net.Dialer).DialContext,
		MachineKey: key.NewMachine(), ControlKey: key.NewMachine().Public(), ProtocolVersion: 1,
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	if _, err := d.Dial(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("%v, deadline: %v", err, ctx.Err())
	}
}

// TestAHalfOpenConnectionIsGivenUp fails where build_patches.py was not applied.
func TestAHalfOpenConnectionIsGivenUp(t *testing.T) {
	clock := faketime.NewManualClock()
	s, w := newStackAt(t, clock)
	ended := make(chan tcpip.Error, 1)
	forwarder := tcp.NewForwarder(s, 0, 8, func(r *tcp.ForwarderRequest) {
		_, err := r.CreateEndpoint(new(waiter.Queue))
		r.Complete(err != nil)
		ended <- err
	})
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, forwarder.HandlePacket)
	w.send(1024, 80, header.TCPFlagSyn, 1, 0)
	for _, seconds := range []time.Duration{1, 2, 4} {
		w.until(header.TCPFlagSyn | header.TCPFlagAck)
		clock.Advance(seconds * time.Second)
	}
	select {
	case err := <-ended:
		if _, ok := err.(*tcpip.ErrTimeout); !ok {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("after 7 s it is still waited for")
	}
}
