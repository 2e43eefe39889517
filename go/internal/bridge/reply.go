package bridge

import (
	"context"
	"encoding/json"

	"golang.org/x/sys/unix"

	"tailnet/internal/fault"
)

// A Result is what an operation answers: a document, and with FD >= 0 a descriptor
// that belongs to it. Reply closes FD once it is sent or nobody wants it.
type Result struct {
	Document any
	FD       int
}

// Reply runs op and returns at once the fd on which its document will arrive. The
// operation's context ends when Python shuts that fd down or closes it.
func Reply(op func(context.Context) (Result, error)) (int, error) {
	end, fd, err := newPair()
	if err != nil {
		return -1, fault.New(fault.Internal, "no socket pair for a reply: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	Go(func() { // Python sends nothing here: all it can do is go
		buf, _, err := end.chunk()
		if err == nil {
			buffers.Put(buf)
		}
		cancel()
	})
	Go(func() {
		defer end.Close()
		defer cancel()
		res, err := safely(ctx, op)
		if res.FD >= 0 {
			defer unix.Close(res.FD)
		}
		var oob []byte
		doc := map[string]any{"ok": res.Document}
		if err != nil {
			doc = map[string]any{"error": fault.Of(err)}
		} else if res.FD >= 0 {
			oob = unix.UnixRights(res.FD)
		}
		b, err := json.Marshal(doc)
		if err != nil {
			b, _ = json.Marshal(map[string]any{"error": fault.New(fault.Internal, "encoding a reply: %v", err)})
		}
		end.send(b, oob) // fails when Python has gone, and then nobody wants to know
	})
	return fd, nil
}

func safely(ctx context.Context, op func(context.Context) (Result, error)) (res Result, err error) {
	defer func() {
		if r := recover(); r != nil {
			res, err = Result{FD: -1}, Recovered(r)
		}
	}()
	return op(ctx)
}

// streamQueue lines may wait for a reader before the stream starts to drop: a burst
// of a whole tailnet's events, and little memory.
const streamQueue = 256

// A Stream carries JSON objects to Python, one a line, and never makes its writer
// wait: what a slow reader misses is counted.
type Stream struct {
	queue chan []byte
	ctx   context.Context
	lost  int // owned by the one goroutine that calls Send
}

// NewStream calls feed in a goroutine of its own with a new stream, and returns
// Python's end of it. The stream's context ends when Python goes; Python reads EOF
// when feed has returned and the queue is empty.
func NewStream(feed func(*Stream)) (int, error) {
	end, fd, err := newPair()
	if err != nil {
		return -1, fault.New(fault.Internal, "no socket pair for a stream: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Stream{queue: make(chan []byte, streamQueue), ctx: ctx}
	Go(func() {
		buf, _, err := end.chunk()
		if err == nil {
			buffers.Put(buf)
		}
		cancel()
		end.Shutdown(unix.SHUT_RDWR) // wakes a writer that waits for room
	})
	Go(func() {
		defer close(s.queue)
		feed(s)
	})
	Go(func() {
		defer end.Close()
		defer cancel()
		for line := range s.queue {
			if _, err := end.Write(line); err != nil {
				cancel()
				for range s.queue { // until feed notices
				}
				return
			}
		}
	})
	return fd, nil
}

// Context ends when the reader has gone.
func (s *Stream) Context() context.Context { return s.ctx }

// Send queues one object, or counts it as lost where the queue is full. The first
// object after a loss is preceded by {"lost": n}; Send reports that with resync, and
// a sender of snapshots then sends a fresh one.
func (s *Stream) Send(object any) (resync bool) {
	if s.lost > 0 {
		if !s.offer(map[string]any{"lost": s.lost}) {
			s.lost++
			return false
		}
		s.lost, resync = 0, true
	}
	if !s.offer(object) {
		s.lost++
	}
	return resync
}

func (s *Stream) offer(object any) bool {
	b, err := json.Marshal(object)
	if err != nil {
		return true
	}
	select {
	case s.queue <- append(b, '\n'):
		return true
	default:
		return false
	}
}
