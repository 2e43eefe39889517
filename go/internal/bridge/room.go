package bridge

import (
	"math"
	"runtime/debug"
	"sync/atomic"
)

/*
A connection whose data Python does not read must cost little, however many there are: it begins
with firstRoom on the way to Python, and its window with as little. Both grow while Python reads, on
account of what all connections of the process have for that; so a bulk transfer gets what it needs
wherever there are not thousands of them, and never less than the first room.
*/
const (
	// firstRoom is what may wait for Python at first. With twice as much 1,000 connections that
	// nobody reads took 60 MiB more.
	firstRoom = 16 << 10

	// mostRoom is what all connections may have beyond that; within a memory limit, a share of it.
	mostRoom  = 256 << 20
	roomShare = 8
)

var roomTaken, roomLimit atomic.Int64

// limitRoom takes in what Go's memory may be.
func limitRoom() {
	most := int64(mostRoom)
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		most = min(most, limit/roomShare)
	}
	roomLimit.Store(most)
}

// TakeRoom takes n bytes of what connections may grow by, and reports whether there were as many.
// GiveRoom gives them back.
func TakeRoom(n int64) bool {
	if roomTaken.Add(n) <= roomLimit.Load() {
		return true
	}
	roomTaken.Add(-n)
	return false
}

// GiveRoom gives back what TakeRoom took.
func GiveRoom(n int64) { roomTaken.Add(-n) }

func init() { limitRoom() }
