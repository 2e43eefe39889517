// Package bridge joins Go to Python: handles, replies and streams on sockets, the
// hand-over of connections to a listening unix socket, and the pump between the
// two ends. It imports nothing of Tailscale, so that the race detector and the
// tests run on it in seconds.
//
// Read handles.go, reply.go, near.go, handover.go, conn.go, in this order.
package bridge

import (
	"runtime/debug"
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
	Logf("panic: %v\n%s", r, debug.Stack())
	return fault.New(fault.Internal, "panic: %v", r)
}

// Go runs f in a goroutine whose panic must not end the Python process.
func Go(f func()) {
	goroutines.Add(1)
	go func() {
		defer goroutines.Add(-1)
		defer func() {
			if r := recover(); r != nil {
				Recovered(r)
			}
		}()
		f()
	}()
}

var goroutines atomic.Int64

// Goroutines returns how many that Go has started have not ended.
func Goroutines() int64 { return goroutines.Load() }

// Logf takes what has no caller to go to. exports.go points it at the log stream.
var Logf = func(format string, args ...any) {}
