package session

import (
	"cmp"
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"tailnet/internal/fault"
)

// CaptureArgs are those of "capture".
type CaptureArgs struct {
	Seconds float64 `json:"seconds" doc:"how long; 0 is until the session ends"`

	To *os.File `json:"-"`
}

// Receive takes the descriptor that came along, or nil.
func (a *CaptureArgs) Receive(f *os.File) { a.To = f }

// Captured is the answer of "capture", once packets are captured.
type Captured struct {
	LinkType int `json:"link_type" doc:"the pcap link type of the packets: 147, which Tailscale's dissector for Wireshark reads"`
}

const forever = 1e9 // seconds

// pcapHeader begins a file without packets, as feature/capture begins others (writePcapHeader).
var pcapHeader = binary.LittleEndian.AppendUint32([]byte{
	0xd4, 0xc3, 0xb2, 0xa1, // microseconds, little endian
	2, 0, 4, 0, // the version
	0, 0, 0, 0, 0, 0, 0, 0, // UTC
	0xff, 0xff, 0, 0, // no packet is cut
}, linkType)

// linkType is Tailscale's: USER0.
const linkType = 147

// captureHead is how long a daemon may take to capture after it has said so; it does so at once.
const captureHead = 50 * time.Millisecond

// captureTail is how long the last packets may be on their way: the sink of Tailscale's capture
// flushes every 100 ms (feature/capture, flushPeriod), and not at its end.
const captureTail = 150 * time.Millisecond

// Capture begins to write the packets of the node to a file, which it closes. run returns when ctx
// has ended, or the time is over, and what there was is in the file.
func (s *Session) Capture(ctx context.Context, a CaptureArgs) (_ *Captured, run func() error, err error) {
	if a.To == nil {
		return nil, nil, fault.New(fault.Argument, "capture: a descriptor to write to must come along")
	}
	if !s.capturing.CompareAndSwap(false, true) { // the end of one would end both
		a.To.Close()
		return nil, nil, fault.New(fault.Config, "capture: this node is being captured already; end that capture first")
	}
	release := func() { a.To.Close(); s.capturing.Store(false) }
	running, done, err := s.WhileRunning(ctx)
	if err != nil {
		release()
		return nil, nil, err
	}
	defer done()
	reading, end := context.WithCancel(context.WithoutCancel(ctx)) // goes on for the last packets
	begun := context.AfterFunc(running, end)
	packets, err := s.Slow.StreamDebugCapture(reading)
	if err != nil {
		end()
		release()
		return nil, nil, s.notCaptured(ctx, err)
	}
	begun()
	if s.Where != "" {
		select { // it answers before it captures; in this process, build_patches.py has it the other way
		case <-time.After(captureHead):
		case <-running.Done():
		}
	}
	last := func() { time.AfterFunc(captureTail, end) }
	ended := context.AfterFunc(ctx, last)
	timer := time.AfterFunc(time.Duration(cmp.Or(a.Seconds, forever)*float64(time.Second)), last)
	return &Captured{LinkType: linkType}, func() error {
		defer release()
		defer ended()
		defer timer.Stop()
		defer packets.Close()
		defer end()
		to := &writing{to: a.To}
		n, err := io.Copy(to, packets)
		if n == 0 { // the header comes with the first packet
			to.Write(pcapHeader)
		}
		switch {
		case to.err != nil:
			return fault.For(fault.Config, to.err, "capture: cannot write the packets")
		case ctx.Err() != nil || reading.Err() != nil:
			return nil
		}
		return s.notCaptured(ctx, cmp.Or(err, io.ErrUnexpectedEOF))
	}, nil
}

// writing remembers that it was the writing that failed.
type writing struct {
	to  io.Writer
	err error
}

func (w *writing) Write(b []byte) (n int, err error) {
	n, w.err = w.to.Write(b)
	return n, w.err
}

// notCaptured says why the LocalAPI gives no packets.
func (s *Session) notCaptured(ctx context.Context, err error) error {
	switch {
	case strings.Contains(err.Error(), http.StatusText(http.StatusForbidden)), strings.Contains(err.Error(), "denied"):
		return fault.New(fault.Unsupported, "capture: tailscaled at %s lets root and its operator capture alone; run as one of them (sudo tailscale set --operator=$USER)", s.Where)
	case strings.Contains(err.Error(), http.StatusText(http.StatusNotFound)):
		return fault.New(fault.Unsupported, "capture: tailscaled at %s was built without it", s.Where)
	}
	return s.Failed(ctx, "capture", err)
}
