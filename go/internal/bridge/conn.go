package bridge

import (
	"cmp"
	"errors"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Far is the tailnet's end of a connection.
type Far interface {
	// Read reads what is there, and returns ErrNothing where that is nothing.
	io.ReadWriter

	// Await has f called once there is something, or an end, in a goroutine of its own.
	// An idle connection waits so, and holds neither a buffer nor a goroutine for it.
	Await(f func())

	CloseWrite() error

	// Widen may let the peer send more at once: Python has taken n bytes, and reads.
	Widen(n int)

	// Ends says how the connection can end.
	Ends() Ends

	// Options are the values that a new connection has; nil where they cannot be set.
	Options() *Options

	// SetOption sets one of them. One goroutine at a time calls it.
	SetOption(option Option, value int32)

	// Delivered reports whether the peer has everything, our FIN included, or
	// nothing can be delivered any more.
	Delivered() bool

	// Close ends the connection in order, or with a reset where the peer's data
	// were not all read, as close(2) does.
	Close() error

	// Abort resets the connection.
	Abort()
}

const (
	// lingerLimit is how long a connection that Python has closed may take to
	// deliver what was written. gVisor gives a dead peer up by itself; this is for
	// one that keeps its window shut. Linux allows an orphan about as much.
	lingerLimit = 2 * time.Minute

	// unreadLimit is lingerLimit where the peer sends what nobody will read: the kernel's
	// TCP would reset such a connection at once. This lets the answer out that was given
	// before; a window that is full may keep its acknowledgement from us.
	unreadLimit = time.Second

	// longestPause between two looks at what was delivered. There may be thousands of
	// connections that Python has left and whose peers have vanished.
	longestPause = time.Second

	// lastPacket is how long a packet may take from the netstack to the socket. Measured:
	// under a millisecond (a 64 byte round trip is 0.4 ms); a loaded machine takes longer.
	lastPacket = 20 * time.Millisecond

	// LastReset is lastPacket for a reset: nothing says that it arrived, and a peer that it
	// does not reach waits for minutes. Two busy processors took more than lastPacket.
	LastReset = 150 * time.Millisecond

	// quiet: when a node closes, a peer that has acknowledged our FIN and sends
	// nothing for so long is taken to be idle (a pooled HTTP connection, say).
	quiet = 300 * time.Millisecond
)

// ErrNothing is what Read returns where there is nothing to read yet.
var ErrNothing = errors.New("nothing to read yet")

// A Conn pumps between the tailnet and a unix socket of Python's, in both
// directions and with half-close both ways. While idle it has one goroutine, no thread and
// no buffer.
type Conn struct {
	ID   uint64
	far  Far
	near *near

	inwardDone chan struct{}
	received   atomic.Int64 // bytes from the tailnet, for quiet
	passing    atomic.Bool  // Python has not yet taken what was received
	finSent    atomic.Bool
	unread     atomic.Bool   // Python has gone, and the peer goes on sending
	refused    bool          // by a reset, which nothing acknowledges
	discard    bool          // inward's: Python wants to read no more
	lingers    time.Duration // lingerLimit
	drainBegun chan struct{}
	done       chan struct{}
}

// inward moves what there is from the tailnet to Python, and is called again when there is
// more, until the peer ends.
func (c *Conn) inward() {
	defer func() {
		if r := recover(); r != nil { // nobody may wait for it
			Recovered(r)
			Memory.Fail(c.ID)
			c.near.Close()
			close(c.inwardDone)
		}
	}()
	switch err := c.copyInward(); {
	case err == ErrNothing:
		c.far.Await(c.inward)
		return
	case err == io.EOF:
		c.near.Shutdown(unix.SHUT_WR)
	case err == errGone:
		c.unread.Store(true)
	default: // recorded before Python can see the EOF, so that its question finds the answer
		Memory.Fail(c.ID)
		c.near.Close()
	}
	close(c.inwardDone)
}

var errGone = errors.New("python has closed the connection")

func (c *Conn) copyInward() error {
	for {
		carried := carrierFor(c.far, c.near.size >= bufferSize)
		n, err := carried.fromFar(c.far)
		c.received.Add(int64(n))
		if n > 0 && !c.discard {
			c.passing.Store(true)
			werr := carried.toNear(c.near)
			c.passing.Store(false)
			c.discard = werr != nil // shutdown(SHUT_RD): what still comes is dropped
			c.near.written += int64(n)
			if c.near.reads() {
				c.near.widen()
				c.far.Widen(n)
			}
		}
		carried.release()
		if n > 0 && c.discard && c.near.gone() {
			return errGone
		}
		if err != nil {
			return err
		}
	}
}

// run pumps outward, and waits until both directions have ended and everything is
// delivered.
func (c *Conn) run() {
	defer close(c.done)
	defer c.near.Close()
	if c.outward() {
		if !c.draining() {
			c.near.Close() // Python has gone; what the peer still says has no reader
		}
		c.linger()
	}
	c.far.Close()
	c.near.Close() // frees an inward that waits for Python to read
	<-c.inwardDone
}

// outward moves Python to tailnet; it returns true when all of it is in the
// tailnet's hands and there is nothing more to wait for from Python.
func (c *Conn) outward() bool {
	stuck := c.giveUpStuck()
	defer stuck.Stop()
	for silent := true; ; silent = false {
		carried, err := c.near.chunk(c.far)
		if silent && errors.Is(err, unix.ECONNRESET) {
			// Python has never accepted it, or has left without a word and without reading
			// everything. An end in order would look as if nothing were wrong.
			c.refused = true
			c.far.Abort()
			return false
		}
		if err != nil { // EOF, or a reset because Python closed without reading everything
			break
		}
		stuck.Reset(c.lingers)
		err = carried.toFar(c.far)
		stuck.Stop()
		carried.release()
		if err != nil {
			Memory.Fail(c.ID)
			c.near.Shutdown(unix.SHUT_RD) // Python's next write fails
			<-c.inwardDone                // it still delivers what the peer had sent before
			return false
		}
	}
	c.far.CloseWrite()
	c.finSent.Store(true)
	if !c.draining() {
		// Python half-closed, or closed. Also true, to the kernel, once inward has
		// passed the peer's FIN on: then both directions have ended.
		c.near.awaitGone()
	}
	return true
}

// giveUpStuck returns a stopped timer that runs while a write waits for the peer's window. A peer
// that answers may keep its window closed as long as Python has the connection open; without
// Python, the write ends after one to two times lingerLimit.
func (c *Conn) giveUpStuck() (stuck *time.Timer) {
	orphaned := false
	stuck = time.AfterFunc(math.MaxInt64, func() {
		if c.near.gone() {
			if orphaned {
				c.far.Abort()
				return
			}
			orphaned = true
		}
		stuck.Reset(c.lingers)
	})
	stuck.Stop()
	return stuck
}

// linger waits until the peer has everything; while draining, also for its end.
func (c *Conn) linger() {
	deadline := time.Now().Add(c.lingers)
	inward, drain := c.inwardDone, c.drainBegun
	last, since := c.received.Load(), time.Now()
	for pause := time.Millisecond; time.Now().Before(deadline); pause = min(2*pause, longestPause) {
		if c.unread.Load() && time.Until(deadline) > unreadLimit {
			deadline = time.Now().Add(unreadLimit)
		}
		if c.far.Delivered() {
			if inward == nil || !c.draining() || c.near.gone() {
				return
			}
			if n := c.received.Load(); n != last || c.passing.Load() {
				last, since = n, time.Now()
			}
			if time.Since(since) > quiet {
				return
			}
			pause = min(pause, quiet/16)
		}
		select {
		case <-inward:
			inward = nil
		case <-drain: // somebody waits now
			drain, pause = nil, time.Millisecond
		case <-time.After(pause):
		}
	}
	c.far.Abort()
}

func (c *Conn) draining() bool {
	select {
	case <-c.drainBegun:
		return true
	default:
		return false
	}
}

// drain makes Python's end look closed for writing, so that what it has written
// goes out, followed by a FIN.
func (c *Conn) drain() {
	close(c.drainBegun)
	c.near.Shutdown(unix.SHUT_RD)
	if c.finSent.Load() { // outward may be in awaitGone; either it saw draining or we see finSent
		c.near.file.SetReadDeadline(time.Unix(1, 0))
	}
}

func (c *Conn) abort() {
	Memory.Fail(c.ID)
	c.far.Abort()
	c.near.Close()
}

// Conns are the open connections of a node.
type Conns struct {
	mu     sync.Mutex
	m      map[*Conn]struct{}
	closed bool

	lingers time.Duration // in the place of lingerLimit, for tests; or 0

	expected int       // connections that are on their way to Python
	lastEnd  time.Time // when a connection ended last
}

// NewID numbers a connection, across all nodes.
func NewID() uint64 { return handles.Add(1) }

// expect announces a connection that Python may have before its pump starts: it could use
// and end it, and close the node, meanwhile, and its peer would never hear of that. It
// returns false where the node is closing.
func (s *Conns) expect() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.expected++
	}
	return !s.closed
}

// arrived ends what expect began: the connection has started, or was aborted.
func (s *Conns) arrived() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expected--
	s.lastEnd = time.Now()
}

// start pumps between far and near, which were expected, until both end.
func (s *Conns) start(id uint64, far Far, near *near) {
	s.mu.Lock()
	c := s.newLocked(id, far, near)
	s.mu.Unlock()
	Go(func() { s.run(c) })
	Quickly(c.inward)
}

// add takes ownership of far and near for a connection that somebody will run; it returns
// nil, with far aborted and near left to the caller, where the node is closing.
func (s *Conns) add(id uint64, far Far, near *near) *Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		far.Abort()
		s.lastEnd = time.Now()
		return nil
	}
	return s.newLocked(id, far, near)
}

func (s *Conns) newLocked(id uint64, far Far, near *near) *Conn {
	c := &Conn{ID: id, far: far, near: near, lingers: cmp.Or(s.lingers, lingerLimit), inwardDone: make(chan struct{}),
		drainBegun: make(chan struct{}), done: make(chan struct{})}
	if s.m == nil {
		s.m = map[*Conn]struct{}{}
	}
	s.m[c] = struct{}{}
	open.add(id, far)
	return c
}

func (s *Conns) run(c *Conn) {
	defer memory.ending()
	defer func() {
		open.remove(c.ID)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.m, c)
		s.lastEnd = time.Now()
		if c.refused {
			s.lastEnd = s.lastEnd.Add(LastReset - lastPacket)
		}
	}()
	c.run()
}

// Len returns how many connections are open.
func (s *Conns) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.m)
}

// Drain refuses new connections and lets the open ones deliver what was written and
// see their peer's end, until limit has passed; then it aborts the rest. It reports
// whether none had to be.
func (s *Conns) Drain(limit time.Duration) bool {
	s.mu.Lock()
	s.closed = true
	for until := time.Now().Add(limit + LastReset); s.expected > 0 && time.Now().Before(until); s.mu.Lock() {
		s.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	var open []*Conn
	for c := range s.m {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		c.drain()
	}
	timeout := time.After(limit)
	drained := true
	for _, c := range open {
		select {
		case <-c.done:
			continue
		default:
		}
		if drained {
			select {
			case <-c.done:
				continue
			case <-timeout:
				drained = false
			}
		}
		c.abort()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// The last packet of the last connection, which acknowledges the peer's FIN, is still
	// on its way through the queues of the node. Without it the peer would repeat its FIN
	// to nobody, for minutes.
	last := s.lastEnd.Add(lastPacket)
	if !drained { // nor may the resets be lost
		last = time.Now().Add(LastReset)
	}
	time.Sleep(time.Until(last))
	return drained
}
