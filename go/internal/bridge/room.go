package bridge

import (
	"math"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

/*
A connection whose data Python does not read must cost little, however many there are. The
buffers of a connection, the window towards the peer and the one on the way to Python, begin
large while there are few connections, and with a minimum where there are many. They grow while
Python reads. Everything beyond the minimum is taken from an account that all connections of the
process share, and given back when the connection ends.
*/
const (
	// leastRoom may wait for Python on any connection. With twice as much 1,000 connections that
	// nobody reads took 60 MiB more.
	leastRoom = 16 << 10

	// mostRoom is what all connections may have beyond that; within a memory limit, the share of
	// it that roomShare divides.
	mostRoom  = 256 << 20
	roomShare = 8

	// A quarter of the account serves beginnings; each takes a sixteenth of what is left of that.
	// So two dozen connections begin with a megabyte each way, and idle ones leave the other
	// three quarters to those that read.
	beginnings     = 4
	beginningShare = 16
)

var roomTaken, roomLimit atomic.Int64

func init() { limitRoom() }

// limitRoom takes in what Go's memory may be.
func limitRoom() {
	most := int64(mostRoom)
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		most = min(most, limit/roomShare)
	}
	roomLimit.Store(most)
}

// Room is what one buffer has taken from the account.
type Room struct {
	mu    sync.Mutex
	taken int64
	ended bool
}

// Begin takes what a new buffer may have beyond its minimum, at most n bytes.
func (r *Room) Begin(n int64) int64 {
	left := roomLimit.Load()/beginnings - roomTaken.Load()
	n = min(n, left/beginningShare)
	if n < leastRoom || !r.Take(n) {
		return 0
	}
	return n
}

// Take takes n bytes, and reports whether there were as many.
func (r *Room) Take(n int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || roomTaken.Add(n) > roomLimit.Load() {
		if !r.ended {
			roomTaken.Add(-n)
		}
		return false
	}
	r.taken += n
	return true
}

// Give gives back n bytes of what was taken, also after End.
func (r *Room) Give(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n = min(n, r.taken) // End may have come before
	r.taken -= n
	roomTaken.Add(-n)
}

// End gives all of it back; nothing can be taken afterwards.
func (r *Room) End() {
	r.mu.Lock()
	defer r.mu.Unlock()
	roomTaken.Add(-r.taken)
	r.taken, r.ended = 0, true
}
