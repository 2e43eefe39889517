package bridge

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

/*
Go collects garbage while more is made, and gives memory back in the minutes after. When a
load has ended nobody makes any: after 10,000 connections more than 300 MiB stayed, for two
minutes and longer (docs/performance.md). So from the end of a connection on the memory is
looked at, until it is calm, and collected and given back where that is worth it.
*/
const (
	// look is the time between two looks, and how long calm must have lasted.
	look = 5 * time.Second

	// calm is how much is allocated between two looks where a load has ended: a hundred
	// short connections. The timers of an idle node take a hundredth of it.
	calm = 4 << 20

	// worth is how much may be garbage before it is worth a collection, which costs some
	// milliseconds; and where the heap is large, and a collection costs more, a share of it.
	// What Go has collected meanwhile is counted as well, so that some collections find little.
	worth      = 32 << 20
	worthShare = 4

	// ofConnection is what a connection holds besides, from its making on (measured: 12 to
	// 30 KiB, docs/performance.md).
	ofConnection = 16 << 10
)

// reclaimer looks after the memory of this process, of which Go has one heap.
type reclaimer struct {
	mu        sync.Mutex
	looking   bool
	ended     uint64 // connections, since the last collection
	collected uint64 // what was allocated until the last collection
	seen      uint64 // what was allocated until the last look
}

var memory reclaimer

// Ending reports that something other than a connection ends and leaves memory to collect.
func Ending() { memory.ending() }

// ending tells that something has ended that held memory.
func (r *reclaimer) ending() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended++
	if !r.looking {
		r.looking = true
		time.AfterFunc(look, r.look)
	}
}

func (r *reclaimer) look() {
	allocated, held := heap()
	r.mu.Lock()
	isCalm := allocated-r.seen < calm
	r.seen = allocated
	if !isCalm {
		r.mu.Unlock()
		time.AfterFunc(look, r.look)
		return
	}
	r.looking = false
	r.mu.Unlock()
	r.collect(allocated, held)
}

// collect collects and gives back, where that is worth it.
func (r *reclaimer) collect(allocated, held uint64) {
	r.mu.Lock()
	garbage := allocated - r.collected + r.ended*ofConnection
	isWorth := garbage > max(worth, held/worthShare)
	if isWorth {
		r.ended, r.collected = 0, allocated
	}
	r.mu.Unlock()
	if isWorth {
		LimitMemory() // it may have been changed since
		runtime.GC()
		runtime.GC()         // what is in a sync.Pool goes at the second collection,
		debug.FreeOSMemory() // and what holds a pool, as a node does, at the third
	}
}

// NodeEnded is to be called when a node has left or has failed to join: it took 33 MiB, and
// the next may take as much before Go collects.
func NodeEnded() { memory.collect(heap()) }

// heap returns how much was ever allocated, and how much is held for it.
func heap() (allocated, held uint64) {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples) // stops nothing, unlike ReadMemStats
	for _, s := range samples[1:] {
		held += s.Value.Uint64()
	}
	return samples[0].Value.Uint64(), held
}

// Go's heap tries to stay within two thirds of what this process may have; the rest is for
// Python, which takes 40 MiB before it has done anything. Measured in a control group of 192 MiB:
// a gigabyte came in with 117 MiB in all, for three times the CPU it takes without a limit; with
// half of the memory it was four times, with three quarters twice, and 147 MiB.
const shareOf, share = 3, 2

// LimitMemory makes Go's soft limit follow what this process may have, which Go does not look
// at: its heap doubles before it is collected, and the kernel would end the process meanwhile.
// Where the user has set GOMEMLIMIT, that holds.
func LimitMemory() {
	defer limitRoom()
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit := allowed()
	if limit < math.MaxInt64 {
		limit = limit / shareOf * share
	}
	debug.SetMemoryLimit(limit)
}
