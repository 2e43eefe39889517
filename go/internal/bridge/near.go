package bridge

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// sendBuffer with messages of 64 KiB was the best of what was measured
// (facts-go-in-python, section 5).
const sendBuffer = 1 << 20

// near is our end of a unix stream socket whose other end is Python's. The
// runtime's poller waits on it: no goroutine that waits here holds a thread, or a
// buffer.
type near struct {
	file *os.File
	raw  syscall.RawConn

	size    int   // of the send buffer
	room    Room  // what of that is beyond the minimum
	written int64 // to Python, of a connection's data
	waited  bool  // for Python to read
	read    bool  // Python has read some of it
}

// newNear takes ownership of a non-blocking fd.
func newNear(fd int) (*near, error) {
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer) // capped by wmem_max; not needed to work
	f := os.NewFile(uintptr(fd), "python")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &near{file: f, raw: raw, size: sendBuffer}, nil
}

// begin gives the way to Python the room that a new connection may have.
func (n *near) begin() { n.resize(leastRoom + int(n.room.Begin(sendBuffer-leastRoom))) }

func (n *near) resize(size int) {
	n.size = size
	n.raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, size) })
}

// widen gives twice the room where we had to wait for Python, which reads.
func (n *near) widen() {
	if size := min(2*n.size, sendBuffer); n.waited && size > n.size && n.room.Take(int64(size-n.size)) {
		n.resize(size)
	}
	n.waited = false
}

// reads reports whether Python has read any of what was written to it. The kernel counts what is
// left with its own overhead, so that is at least as much as was written where nothing was read.
func (n *near) reads() bool {
	if !n.read {
		left, err := 0, error(nil)
		n.raw.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) })
		n.read = err != nil || int64(left) < n.written
	}
	return n.read
}

// newPair returns our end and the number of Python's end of a new socket pair.
func newPair() (*near, int, error) {
	fds, err := socketpair()
	if err != nil {
		return nil, -1, err
	}
	n, err := newNear(fds[0])
	if err != nil {
		unix.Close(fds[1])
		return nil, -1, err
	}
	return n, fds[1], nil
}

// chunk waits until Python has sent something, and only then takes what carries it to far;
// it returns that, filled, or io.EOF.
func (n *near) chunk(far Far) (carried carrier, err error) {
	var count int
	waitErr := n.raw.Read(func(fd uintptr) bool {
		carried = carrierFor(far, true)
		if count, err = carried.fromNear(int(fd)); err != nil || count == 0 {
			carried.release()
		}
		return err != unix.EAGAIN
	})
	if err = errors.Join(waitErr, err); err == nil && count == 0 {
		err = io.EOF
	}
	return carried, err
}

// Write sends all of b.
func (n *near) Write(b []byte) (done int, err error) {
	err = n.whole(func(fd int) error {
		for done < len(b) {
			k, err := retry(func() (int, error) { return unix.Write(fd, b[done:]) })
			if err != nil {
				return err
			}
			done += k
		}
		return nil
	})
	return done, err
}

// whole is as the function; it remembers whether there was room at once.
func (n *near) whole(send func(fd int) error) error {
	return whole(n.raw, func(fd int) error {
		err := send(fd)
		n.waited = n.waited || err == unix.EAGAIN
		return err
	})
}

// whole calls send until it does not return EAGAIN any more, each time once there is room.
func whole(to syscall.RawConn, send func(fd int) error) (err error) {
	waitErr := to.Write(func(fd uintptr) bool {
		err = send(int(fd))
		return err != unix.EAGAIN
	})
	return errors.Join(waitErr, err)
}

// awaitWord returns when Python has sent something, or gone. Nothing is read.
func (n *near) awaitWord() {
	n.raw.Read(func(fd uintptr) bool { return pending(int(fd), unix.POLLIN) })
}

// awaitGone returns when Python has closed its end altogether. A half-close is not
// that: the kernel reports a hang-up only when both directions are shut.
func (n *near) awaitGone() {
	n.raw.Read(func(fd uintptr) bool { return hungUp(int(fd)) })
}

// gone reports whether Python has closed its end altogether.
func (n *near) gone() (gone bool) {
	if err := n.raw.Control(func(fd uintptr) { gone = hungUp(int(fd)) }); err != nil {
		return true
	}
	return gone
}

// Shutdown is shutdown(2). With SHUT_RD what Python has written so far can still be
// read, then comes EOF; and Python can write no more.
func (n *near) Shutdown(how int) {
	n.raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), how) })
}

// Close shuts down first: a forked child has a copy of our end, too, and as long as it
// lives, a close alone would not reach Python. What was sent before can still be read.
func (n *near) Close() error {
	n.Shutdown(unix.SHUT_RDWR)
	n.room.End()
	return n.file.Close()
}

func hungUp(fd int) bool { return pending(fd, 0) }

// pending reports whether one of the events is there, or the hang-up that always is one.
func pending(fd int, events int16) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	_, err := retry(func() (int, error) { return unix.Poll(p, 0) })
	return err != nil || p[0].Revents&(events|unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
}

// retry repeats a system call that a signal interrupted; the runtime's preemption
// signals do that.
func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}
