// Package bridge joins Go to Python: handles, replies and streams on sockets, the
// hand-over of connections to a listening unix socket, and the pump between the
// two ends. It imports nothing of Tailscale, so that the race detector and the
// tests run on it in seconds.
//
// Read handles.go, reply.go, near.go, handover.go, conn.go, carrier.go, kernel.go, over.go, reclaim.go
// and shared.go, in this order.
package bridge

import (
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"

	"tailnet/internal/fault"
)

// handles counts for every table: a number is never used twice in a process,
// whatever it stood for, so a stale one cannot name something else.
var handles atomic.Uint64

// Table maps the integers that C holds to Go values. The zero Table is ready.
type Table[T any] struct {
	mu sync.Mutex
	m  map[uint64]T
}

// Put stores v under a new handle.
func (t *Table[T]) Put(v T) uint64 {
	h := handles.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = map[uint64]T{}
	}
	t.m[h] = v
	return h
}

// Get returns what h stands for, or a Handle error.
func (t *Table[T]) Get(h uint64) (T, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.m[h]
	if !ok {
		return v, fault.New(fault.Handle, "%T handle %d is closed or was never given out", v, h)
	}
	return v, nil
}

// Take removes h and returns what it stood for; ok is false the second time.
func (t *Table[T]) Take(h uint64) (v T, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok = t.m[h]
	delete(t.m, h)
	return v, ok
}

// Each calls f with every value.
func (t *Table[T]) Each(f func(T)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v := range t.m {
		f(v)
	}
}

// Len returns how many handles are open.
func (t *Table[T]) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.m)
}

// Recovered turns what recover() returned into an Internal error, and logs where it
// came from.
func Recovered(r any) error {
	Logf("panic: %v", r)
	for line := range strings.Lines(string(debug.Stack())) {
		Logf("%s", line) // a log line each, as line ends within one are escaped
	}
	return fault.New(fault.Internal, "panic: %v", r)
}

// Go runs f in a goroutine whose panic must not end the Python process.
func Go(f func()) {
	running.Add(1)
	go guarded(f)
}

// Quickly is Go for what ends soon. Its goroutines wait for the next f: a new one has a
// small stack, and to grow it as far as a dial or a pump needs took a tenth of the CPU of a
// short connection.
func Quickly(f func()) {
	running.Add(1)
	select {
	case next <- f:
	default:
		go work(f)
	}
}

// mostIdle goroutines wait for work, with some 8 KiB of stack each.
const mostIdle = 64

var (
	next          = make(chan func())
	running, idle atomic.Int64
)

func work(f func()) {
	for {
		guarded(f)
		if idle.Add(1) > mostIdle {
			idle.Add(-1)
			return
		}
		f = <-next
		idle.Add(-1)
	}
}

func guarded(f func()) {
	defer running.Add(-1)
	defer func() {
		if r := recover(); r != nil {
			Recovered(r)
		}
	}()
	f()
}

// Goroutines returns how many of Go's have not ended, and how many there are in the
// process besides those that wait for work.
func Goroutines() (ours, all int64) {
	return running.Load(), int64(runtime.NumGoroutine()) - idle.Load()
}

// Logf takes what has no caller to go to. exports.go points it at the log stream.
var Logf = func(format string, args ...any) {}
