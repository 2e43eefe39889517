package bridge

import (
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pipeSize is what a pipe carries at most.
	pipeSize = 256 << 10

	// mostPipes there are, idle ones included, of two descriptors each. A user may have 64 MiB
	// in pipes before they shrink (fs.pipe-user-pages-soft); who gets none copies.
	mostPipes = 32

	// idleLimit is how long a pipe that nobody uses stays, at most. To make one takes 5 us.
	idleLimit = time.Second
)

// A pipe is a carrier of the kernel's.
type pipe struct {
	r, w int
	held int
	far  *kernelConn
}

// splicing returns a pipe for what goes to far and comes from there, or nil.
func splicing(far *kernelConn) carrier {
	if far.copies.Load() {
		return nil
	}
	if p := pipes.get(); p != nil {
		p.far = far
		return p
	}
	return nil
}

func (p *pipe) fromFar(Far) (int, error) {
	n, err := p.take()
	if n > 0 || !p.far.holds() {
		return n, err
	}
	// Either it came just now, or it is behind TCP's urgent data: there splice(2) sees nothing,
	// or the end, for ever. read(2) passes over them.
	if n, err = p.take(); err == ErrNothing || err == io.EOF {
		p.far.copies.Store(true)
		return 0, nil
	}
	return n, err
}

func (p *pipe) take() (int, error) {
	return p.far.take(p.fill, func(early []byte) int {
		n, _ := unix.Write(p.w, early)
		p.held = max(n, 0)
		return p.held
	})
}

func (p *pipe) fromNear(fd int) (int, error) { return p.fill(fd) }

func (p *pipe) toNear(n *near) error { return n.whole(p.pour) }

func (p *pipe) toFar(Far) error { return whole(p.far.raw, p.pour) }

func (p *pipe) fill(fd int) (_ int, err error) {
	p.held, err = splice(fd, p.w, pipeSize)
	return p.held, err
}

// pour empties the pipe into fd, or returns EAGAIN where that has no room.
func (p *pipe) pour(fd int) error {
	for p.held > 0 {
		n, err := splice(p.r, fd, p.held)
		if err != nil {
			return err
		}
		p.held -= n
	}
	return nil
}

func (p *pipe) release() { pipes.put(p) }

func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// splice moves what there is, without a wait. On a broken connection it raises SIGPIPE, which
// Go's threads block (_engine/lib.py).
func splice(from, to, most int) (int, error) {
	return retry(func() (int, error) {
		n, err := unix.Splice(from, nil, to, nil, most, unix.SPLICE_F_NONBLOCK)
		return max(int(n), 0), err
	})
}

// canSplice is false where a filter of system calls forbids it: to move nothing always works.
var canSplice = sync.OnceValue(func() bool {
	_, err := splice(-1, -1, 0)
	return err == nil
})

// pipes are those of this process.
var pipes pool

type pool struct {
	mu   sync.Mutex
	idle []*pipe
	made int

	closing bool // closeIdle will come
}

// get returns an empty pipe, or nil where none is to be had.
func (s *pool) get() *pipe {
	s.mu.Lock()
	if n := len(s.idle); n > 0 {
		p := s.idle[n-1]
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		return p
	}
	may := s.made < mostPipes && canSplice()
	if may {
		s.made++
	}
	s.mu.Unlock()
	if !may {
		return nil
	}
	p := newPipe()
	if p == nil {
		s.mu.Lock()
		s.made--
		s.mu.Unlock()
	}
	return p
}

func newPipe() *pipe {
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	p := &pipe{r: fds[0], w: fds[1]}
	if _, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, pipeSize); err != nil {
		p.close() // this user has too many, and a page at a time is slower than to copy
		return nil
	}
	return p
}

// put takes a pipe back. One that holds something, which nobody wants, is closed.
func (s *pool) put(p *pipe) {
	p.far = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.held > 0 {
		s.made--
		p.close()
		return
	}
	s.idle = append(s.idle, p)
	if !s.closing {
		s.closing = true
		time.AfterFunc(idleLimit, s.closeIdle)
	}
}

// closeIdle closes the pipes that nobody uses at this moment. One that is used now and then is
// made anew, which costs nothing beside a second.
func (s *pool) closeIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.idle {
		p.close()
	}
	s.made -= len(s.idle)
	s.idle, s.closing = nil, false
}
