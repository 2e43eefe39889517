package bridge

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tailnet/internal/fault"
)

// An End is our end of a socket pair whose other end Python keeps.
type End struct{ *near }

// TakeEnd takes ownership of a non-blocking fd. Python has the other end from before the dial
// on, so that no interrupt can come between the connection's making and Python's knowing of it.
func TakeEnd(fd int) (End, error) {
	n, err := newNear(fd)
	if err != nil {
		unix.Close(fd)
		return End{}, fault.For(fault.Argument, err, "cannot use fd %d", fd)
	}
	return End{n}, nil
}

// Refuse says why there will be no connection.
func (e End) Refuse(err error) {
	e.Write(answer(nil, err))
	e.Close()
}

// Dialed is a connection that was made, and what Python is told of it.
type Dialed struct {
	Connection uint64         `json:"connection"`
	Local      netip.AddrPort `json:"local"`
	Remote     netip.AddrPort `json:"remote"`
	Whole      bool           `json:"whole"` // shutting one direction down loses the other one
	Options    *Options       `json:"options"`

	Far Far `json:"-"`
}

// Dial has op make a connection and joins it to Python's socket pair. The answer is the
// first line that Python reads there, and the connection's bytes follow: a reply with a
// descriptor of its own would cost as much as the connection. Python writes nothing before
// it; until then, its going ends the operation's context.
func (s *Conns) Dial(end End, op func(context.Context) (*Dialed, error)) {
	ctx, cancel := context.WithCancel(context.Background())
	dialed := make(chan *Conn, 1)
	Quickly(func() {
		defer cancel()
		c, err := s.dial(ctx, end, op)
		dialed <- c
		if err != nil {
			end.Refuse(err)
		} else {
			c.inward()
		}
	})
	Go(func() {
		end.awaitWord()
		if end.gone() {
			cancel()
		}
		if c := <-dialed; c != nil {
			s.run(c)
		}
	})
}

func (s *Conns) dial(ctx context.Context, end End, op func(context.Context) (*Dialed, error)) (*Conn, error) {
	d, err := safely(ctx, op)
	if err != nil {
		return nil, err
	}
	d.Connection, d.Whole, d.Options = NewID(), d.Far.Ends() == AsOne, d.Far.Options()
	end.begin()
	c := s.add(d.Connection, d.Far, end.near)
	if c == nil {
		return nil, fault.New(fault.Closed, "the node was closed while dialing %v", d.Remote)
	}
	// Our end is named after the peer, as that of an accepted connection is; nameless is fine.
	end.raw.Control(func(fd uintptr) { bindName(int(fd), newNonce(), d.Connection, d.Remote, d.Far.Ends()) })
	end.Write(answer(d, nil))
	return c, nil
}

// Ends says how a connection can end; where it is a word, its name ends with that.
type Ends string

const (
	// EachWay: each direction ends by itself, as TCP has it.
	EachWay Ends = ""

	// AsOne: when one direction ends, the other one is lost. Python must know, or it
	// would end its direction and wait for an answer.
	AsOne Ends = "whole"
)

// An Acceptor hands connections to the listening unix socket at a path.
type Acceptor struct {
	conns   *Conns
	file    int    // O_PATH, or -1
	dial    string // what to connect to
	nonce   string // makes our names unguessable, so that nobody can take them before us
	backlog int64
	waiting atomic.Int64
	closed  chan struct{}
	isShut  atomic.Bool

	// Options are those of its connections, as the backend says; nil where they cannot be set.
	Options *Options
	set     inherited
}

// NewAcceptor opens the socket file at path. At most backlog connections wait here
// when Python's own queue is full.
func NewAcceptor(conns *Conns, path string, backlog int) (*Acceptor, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, fault.New(fault.Argument, "there is no listening socket at %s", path)
	}
	file, dial, err := openSocketFile(path)
	if err != nil {
		return nil, fault.For(fault.Argument, err, "cannot open the listening socket %s", path)
	}
	return &Acceptor{conns: conns, file: file, dial: dial, nonce: newNonce(),
		backlog: int64(max(backlog, 1)), closed: make(chan struct{})}, nil
}

// SetOption sets an option of the connections that are handed over from now on.
func (a *Acceptor) SetOption(option Option, value int32) { a.set.put(option, value) }

// Full reports whether a new connection must be refused.
func (a *Acceptor) Full() bool { return a.isShut.Load() || a.waiting.Load() >= a.backlog }

// HandOver gives far to Python, waiting while its queue is full; far is aborted
// where it cannot be.
func (a *Acceptor) HandOver(far Far, peer netip.AddrPort) {
	a.waiting.Add(1)
	defer a.waiting.Add(-1)
	if !a.conns.expect() {
		far.Abort()
		return
	}
	defer a.conns.arrived()
	id := NewID()
	a.set.give(far)
	open.add(id, far) // before Python can have it
	// The kernel does not tell when a full queue has room again, so ask: soon at
	// first, because a busy server accepts all the time.
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		fd, err := a.connect(id, peer, far.Ends())
		if err == nil {
			near, err := newNear(fd)
			if err != nil {
				open.remove(id)
				far.Abort()
				return
			}
			near.begin()
			a.conns.start(id, far, near)
			return
		}
		if a.isShut.Load() || !passes(err) { // the listening socket is gone
			open.remove(id)
			far.Abort()
			return
		}
		select {
		case <-a.closed:
		case <-time.After(pause):
		}
	}
}

// passes reports whether a connection may wait for an error to pass: Python's queue is full,
// or this machine has no more descriptors or memory. The kernel's TCP lets it wait, too.
func passes(err error) bool {
	return slices.Contains([]error{unix.EAGAIN, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM}, err)
}

func (a *Acceptor) connect(id uint64, peer netip.AddrPort, ends Ends) (int, error) {
	fd, err := socket()
	if err != nil {
		return -1, err
	}
	if err := bindName(fd, a.nonce, id, peer, ends); err == unix.EADDRINUSE {
		bindName(fd, newNonce(), id, peer, ends) // someone sits on our name; and nameless is better than not at all
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: a.dial}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// mostKnocks is how many may wait in accept(2) to be told; _sockets/listener.py has the same.
const mostKnocks = 256

// End tells everybody who waits in accept(2) that no connection will come any more, by
// connections whose name says so (src/tailnet/_sockets/listener.py).
func (a *Acceptor) End() {
	for range mostKnocks {
		fd, err := socket()
		if err != nil {
			return
		}
		unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + newNonce() + "/0/closed"})
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: a.dial})
		unix.Close(fd)
		if err != nil { // the queue is full: nobody waits
			return
		}
	}
}

// Close refuses what comes from now on, and what waits. It may be called twice.
func (a *Acceptor) Close() {
	if !a.isShut.CompareAndSwap(false, true) {
		return
	}
	close(a.closed)
	// A HandOver may be between its check and its connect; the file must stay until
	// it is through.
	Go(func() {
		for a.waiting.Load() > 0 {
			time.Sleep(time.Millisecond)
		}
		if a.file >= 0 {
			unix.Close(a.file)
		}
	})
}

// spell joins what the name of a connection says.
func spell(separator, nonce string, id uint64, peer netip.AddrPort, ends Ends) string {
	words := []string{nonce, strconv.FormatUint(id, 10), peer.String()}
	if ends != EachWay {
		words = append(words, string(ends))
	}
	return strings.Join(words, separator)
}

func newNonce() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
