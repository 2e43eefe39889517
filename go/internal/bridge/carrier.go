package bridge

import (
	"sync"

	"golang.org/x/sys/unix"
)

// A carrier holds what is on its way between the two ends of a connection: in a buffer or,
// where both are sockets of this host's kernel, in a pipe, so that no byte is copied out of
// the kernel and back in. It is held only while bytes move.
type carrier interface {
	// fromFar takes what there is, as Far.Read does.
	fromFar(Far) (int, error)

	// toNear gives Python all that it holds, and waits for room.
	toNear(*near) error

	// fromNear takes what there is at the descriptor, which is Python's; 0 is the end.
	fromNear(fd int) (int, error)

	// toFar gives the tailnet all that it holds, and waits for room.
	toFar(Far) error

	// release gives it back, empty or not.
	release()
}

// carrierFor returns a carrier that is empty; a large one where much is moved at once.
func carrierFor(far Far, large bool) carrier {
	if k, ok := far.(*kernelConn); ok {
		if p := splicing(k); p != nil {
			return p
		}
	}
	if large {
		return buffers.Get().(*buffer)
	}
	return smallBuffers.Get().(*buffer)
}

// bufferSize is what a buffer carries at most. 64 KiB was the best of what was measured
// (facts-go-in-python, section 5).
const bufferSize = 64 << 10

type buffer struct {
	room []byte
	held int
	pool *sync.Pool
}

// buffers hold what moves; smallBuffers, what may wait for a Python that reads nothing (room.go).
var buffers, smallBuffers sync.Pool

func init() {
	buffers.New = func() any { return &buffer{make([]byte, bufferSize), 0, &buffers} }
	smallBuffers.New = func() any { return &buffer{make([]byte, leastRoom), 0, &smallBuffers} }
}

func (b *buffer) fromFar(far Far) (n int, err error) {
	b.held, err = far.Read(b.room)
	return b.held, err
}

func (b *buffer) toNear(n *near) error {
	_, err := n.Write(b.room[:b.held])
	return err
}

func (b *buffer) fromNear(fd int) (_ int, err error) {
	b.held, err = retry(func() (int, error) { return unix.Read(fd, b.room) })
	return b.held, err
}

func (b *buffer) toFar(far Far) error {
	_, err := far.Write(b.room[:b.held])
	return err
}

func (b *buffer) release() { b.pool.Put(b) }
