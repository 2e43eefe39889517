package bridge

import (
	"context"
	"encoding/json"

	"golang.org/x/sys/unix"

	"tailnet/internal/fault"
)

// Reply runs op and returns at once the fd on which its document will arrive. The
// operation's context ends when Python shuts that fd down or closes it.
func Reply(op func(context.Context) (any, error)) (int, error) {
	end, fd, err := newPair()
	if err != nil {
		return -1, fault.For(fault.Internal, err, "no socket pair for a reply")
	}
	End{end}.Reply(op)
	return fd, nil
}

// Reply is as the function, where Python has its end already.
func (e End) Reply(op func(context.Context) (any, error)) {
	ctx, cancel := context.WithCancel(context.Background())
	Quickly(func() {
		defer e.Close()
		defer cancel()
		e.Write(answer(safely(ctx, op))) // fails when Python has gone, and then nobody wants to know
	})
	Quickly(func() { // Python sends nothing here: all it can do is go
		e.awaitWord()
		cancel()
	})
}

// answer spells what came of an operation, as one line.
func answer(document any, err error) []byte {
	doc := map[string]any{"ok": document}
	if err != nil {
		doc = map[string]any{"error": fault.Of(err)}
	}
	b, err := json.Marshal(doc)
	if err != nil {
		b, _ = json.Marshal(map[string]any{"error": fault.New(fault.Internal, "encoding a reply: %v", err)})
	}
	return append(b, '\n')
}

func safely[T any](ctx context.Context, op func(context.Context) (T, error)) (document T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = Recovered(r)
		}
	}()
	return op(ctx)
}

// streamQueue lines may wait for a reader before the stream starts to drop: a burst
// of a whole tailnet's events, and little memory.
const streamQueue = 256

// A Stream carries JSON objects to Python, one a line, and never makes its writer
// wait: it counts what a slow reader misses.
type Stream struct {
	queue chan []byte
	ctx   context.Context
	lost  int // owned by the one goroutine that calls Send
}

// NewStream makes a stream and returns Python's end of it; feed is as of End.Stream.
func NewStream(feed func(*Stream) error) (int, error) {
	end, fd, err := newPair()
	if err != nil {
		return -1, fault.For(fault.Internal, err, "no socket pair for a stream")
	}
	End{end}.Stream(feed)
	return fd, nil
}

// Stream calls feed in a goroutine of its own with a new stream, whose context ends when
// Python goes. When feed returns, the last line says how the stream ended, as a reply does:
// a reader can tell an end from a connection that broke.
func (e End) Stream(feed func(*Stream) error) {
	e.feed(feed, func() { e.Shutdown(unix.SHUT_RDWR) }) // wakes a writer that waits for room
}

// Session is Stream for something that begins, lasts and ends. The first line is what begin
// returns, as of a reply; run is what lasts. Python ends it by shutting its direction down, and
// can read how it ended; or by going.
func (e End) Session(begin func(*Stream) (document any, run func() error, err error)) {
	e.feed(func(s *Stream) error {
		document, run, err := begin(s)
		if err != nil {
			return err
		}
		s.queue <- answer(document, nil)
		return run()
	}, func() {})
}

func (e End) feed(feed func(*Stream) error, gone func()) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Stream{queue: make(chan []byte, streamQueue), ctx: ctx}
	Go(func() {
		e.awaitWord()
		cancel()
		gone()
	})
	var last []byte
	Go(func() {
		defer close(s.queue)
		_, err := safely(ctx, func(context.Context) (any, error) { return nil, feed(s) })
		last = answer(nil, err)
	})
	Go(func() {
		defer e.Close()
		defer cancel()
		for line := range s.queue {
			if _, err := e.Write(line); err != nil {
				cancel()
				for range s.queue { // until feed notices
				}
				return
			}
		}
		e.Write(last)
	})
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
