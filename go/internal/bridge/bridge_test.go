package bridge

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tailnet/internal/fault"
)

// eventually waits for a condition and fails naming it.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); runtime.Gosched() {
		if cond() {
			return
		}
	}
	t.Fatalf("never came true: %s", what)
}

// tcpPair stands for the tailnet: far is what the pump holds, peer is the other side.
func tcpPair(t *testing.T) (far, peer *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return b.(*net.TCPConn), a.(*net.TCPConn)
}

var peerAddr = netip.MustParseAddrPort("100.64.0.7:41234")

// unixConn takes an fd as Python would.
func unixConn(t *testing.T, fd int) *net.UnixConn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "python")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn)
}

func dialed(t *testing.T, s *Conns) (python *net.UnixConn, peer *net.TCPConn, id uint64) {
	t.Helper()
	return dialedAs(t, s, Kernel)
}

func dialedAs(t *testing.T, s *Conns, as func(HostConn) Far) (python *net.UnixConn, peer *net.TCPConn, id uint64) {
	t.Helper()
	far, peer := tcpPair(t)
	python, answer := dial(t, s, as(far))
	if answer.OK == nil {
		t.Fatal(answer.Error)
	}
	return python, peer, answer.OK.Connection
}

type answered struct {
	OK    *Dialed      `json:"ok"`
	Error *fault.Error `json:"error"`
}

func dial(t *testing.T, s *Conns, far Far) (python *net.UnixConn, a answered) {
	t.Helper()
	python, end := pythonsPair(t)
	s.Dial(end, func(context.Context) (*Dialed, error) {
		return &Dialed{Remote: peerAddr, Far: far}, nil
	})
	line, err := bufio.NewReaderSize(oneByOne{python}, 16).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(line, &a); err != nil {
		t.Fatal(err)
	}
	return python, a
}

// oneByOne takes no byte too many.
type oneByOne struct{ io.Reader }

func (r oneByOne) Read(b []byte) (int, error) { return r.Reader.Read(b[:1]) }

// pythonsPair makes a socket pair as Python does, and gives one end away.
func pythonsPair(t *testing.T) (*net.UnixConn, End) {
	t.Helper()
	fds, err := socketpair()
	if err != nil {
		t.Fatal(err)
	}
	end, err := TakeEnd(fds[1])
	if err != nil {
		t.Fatal(err)
	}
	return unixConn(t, fds[0]), end
}

func TestADialIsGivenUp(t *testing.T) {
	var s Conns
	for _, goes := range []func(*net.UnixConn){
		func(c *net.UnixConn) { c.Close() },
		func(c *net.UnixConn) { c.CloseRead(); c.CloseWrite() }, // a forked child has a copy
	} {
		python, end := pythonsPair(t)
		ended := make(chan error)
		s.Dial(end, func(ctx context.Context) (*Dialed, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		})
		goes(python)
		<-ended
	}
}

func TestWhatThePeerSaysFirstComesAfterTheAnswer(t *testing.T) {
	var s Conns
	far, peer := tcpPair(t)
	peer.Write([]byte("welcome"))
	python, _ := dial(t, &s, Kernel(far))
	peer.Close()
	if said, err := io.ReadAll(python); err != nil || string(said) != "welcome" {
		t.Errorf("%q, %v", said, err)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

func TestBothDirectionsAtOnceArriveIdentical(t *testing.T) {
	eachKind(t, func(t *testing.T, dialed dialing) {
		var s Conns
		python, peer, _ := dialed(t, &s)
		data := random(8 << 20)
		for _, c := range []interface {
			net.Conn
			CloseWrite() error
		}{python, peer} {
			go func() { c.Write(data); c.CloseWrite() }()
		}
		got := make(chan []byte, 2)
		for _, c := range []net.Conn{python, peer} {
			go func() { b, _ := io.ReadAll(c); got <- b }()
		}
		for range 2 {
			if !bytes.Equal(<-got, data) {
				t.Error("the data changed on the way")
			}
		}
		eventually(t, "the connection is forgotten", func() bool { return s.Len() == 0 })
	})
}

func TestLateReplyArrivesAfterHalfClose(t *testing.T) {
	eachKind(t, func(t *testing.T, dialed dialing) {
		var s Conns
		python, peer, _ := dialed(t, &s)
		python.Write([]byte("question"))
		python.CloseWrite()
		if q, err := io.ReadAll(peer); string(q) != "question" || err != nil {
			t.Fatalf("peer read %q, %v", q, err)
		}
		peer.Write([]byte("answer"))
		peer.Close()
		if a, err := io.ReadAll(python); string(a) != "answer" || err != nil {
			t.Fatalf("python read %q, %v", a, err)
		}
		eventually(t, "the connection is forgotten", func() bool { return s.Len() == 0 })
	})
}

func TestResetIsRememberedBeforePythonSeesTheEnd(t *testing.T) {
	eachKind(t, func(t *testing.T, dialed dialing) {
		var s Conns
		python, peer, id := dialed(t, &s)
		peer.reset()
		io.ReadAll(python)
		if !Memory.Failed(id) {
			t.Error("the reset is not known at Python's EOF")
		}
		_, peer, id = dialed(t, &s)
		peer.Close()
		if Memory.Failed(id) {
			t.Error("an orderly end is taken for a reset")
		}
	})
}

func TestPythonsCloseDeliversWhatItWrote(t *testing.T) {
	eachKind(t, func(t *testing.T, dialed dialing) {
		var s Conns
		python, peer, _ := dialed(t, &s)
		data := random(4 << 20)
		go func() { python.Write(data); python.Close() }()
		if got, err := io.ReadAll(peer); !bytes.Equal(got, data) || err != nil {
			t.Fatalf("peer read %d of %d bytes, %v", len(got), len(data), err)
		}
		eventually(t, "the connection is forgotten", func() bool { return s.Len() == 0 })
	})
}

func TestWhatComesAfterPythonWantsToReadNoMoreIsDropped(t *testing.T) {
	eachKind(t, func(t *testing.T, dialed dialing) {
		var s Conns
		python, peer, _ := dialed(t, &s)
		python.CloseRead()
		for range 4 {
			if _, err := peer.Write(random(4 << 20)); err != nil {
				t.Fatal(err)
			}
		}
		python.Write([]byte("enough"))
		python.Close()
		if said, err := io.ReadAll(peer); string(said) != "enough" || err != nil {
			t.Errorf("peer read %q, %v", said, err)
		}
		eventually(t, "the connection is forgotten", func() bool { return s.Len() == 0 })
	})
}

func TestAnEndOfADaemonThatHasGoneIsAReset(t *testing.T) {
	for _, gone := range []bool{false, true} {
		var s Conns
		python, peer, id := dialedAs(t, &s, func(c HostConn) Far {
			return Through(c, func() bool { return gone }, []byte("wel")...)
		})
		peer.Write([]byte("come"))
		peer.Close()
		if said, err := io.ReadAll(python); string(said) != "welcome" || err != nil || Memory.Failed(id) != gone {
			t.Errorf("gone %v: %q, %v, failed %v", gone, said, err, Memory.Failed(id))
		}
	}
}

// listening makes Python's listening socket, and what hands connections to it.
func listening(t *testing.T, s *Conns) (*net.UnixListener, *Acceptor) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "l")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAcceptor(s, path, 1)
	if err != nil {
		t.Fatal(err)
	}
	return ln, a
}

func TestWhoIsNeverAcceptedIsReset(t *testing.T) {
	var s Conns
	ln, a := listening(t, &s)
	defer a.Close()
	far, peer := tcpPair(t)
	a.HandOver(Kernel(far), peerAddr)
	ln.Close()
	if _, err := io.ReadAll(peer); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the peer sees %v", err)
	}
	eventually(t, "the connection is forgotten", func() bool { return s.Len() == 0 })
}

// The daemon ends both directions when it cannot write, and drops what it has from us.
func TestAnAnswerGoesThroughADaemonThatStillSends(t *testing.T) {
	var s Conns
	python, daemon, _ := dialedAs(t, &s, func(c HostConn) Far { return Through(c, func() bool { return false }) })
	stopped := make(chan error, 1)
	go func() {
		_, err := daemon.Write(random(32 << 20))
		stopped <- err
	}()
	if _, err := io.ReadFull(python, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	python.Write([]byte("too large"))
	python.Close()
	if said, err := io.ReadAll(daemon); string(said) != "too large" || err != nil {
		t.Errorf("the daemon read %q, %v", said, err)
	}
	select {
	case err := <-stopped:
		t.Errorf("it could not write before it had passed the answer on: %v", err)
	default:
	}
	daemon.Close()
	eventually(t, "the connection is forgotten", func() bool { return s.Len() == 0 })
}

func TestDrainDeliversAndEnds(t *testing.T) {
	var s Conns
	python, peer, _ := dialed(t, &s)
	idle, _, _ := dialed(t, &s)
	halfClosed, halfPeer, _ := dialed(t, &s)
	halfClosed.CloseWrite()
	io.ReadAll(halfPeer)
	python.Write([]byte("last words"))
	go func() { io.ReadAll(peer); peer.Close() }()
	if !s.Drain(5 * time.Second) {
		t.Error("connections had to be aborted")
	}
	for _, c := range []net.Conn{python, idle, halfClosed} {
		if _, err := io.ReadAll(c); err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Error(err)
		}
	}
	far, _ := tcpPair(t)
	if _, a := dial(t, &s, Kernel(far)); a.Error == nil || a.Error.Code != fault.Closed {
		t.Errorf("a connection after Drain: %v", a)
	}
}

func TestIdleConnectionsHoldNoThreads(t *testing.T) {
	var s Conns
	before := threads(t)
	for range 200 {
		dialed(t, &s)
	}
	eventually(t, "200 connections are pumped", func() bool { return s.Len() == 200 })
	if now := threads(t); now > before+20 {
		t.Errorf("%d threads with 200 idle connections, %d before", now, before)
	}
}

func TestAClosedWindowHoldsNoConnectionThatPythonHasClosed(t *testing.T) {
	s := Conns{lingers: 100 * time.Millisecond}
	python, peer, _ := dialed(t, &s)
	python.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := python.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a peer that reads nothing took 64 MiB: %v", err)
	}
	if s.Len() != 1 {
		t.Fatal("a connection that Python has open is ended because its peer does not read")
	}
	python.Close()
	eventually(t, "the connection has ended", func() bool { return s.Len() == 0 })
	if _, err := io.Copy(io.Discard, peer); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the peer, which lacks data, sees %v", err)
	}
}

// underRace: the race detector makes sync.Pool forget what it is given at random.
var underRace bool

func TestIdleConnectionsHoldNoBuffers(t *testing.T) {
	made := new(atomic.Int64)
	for _, pool := range []*sync.Pool{&buffers, &smallBuffers} {
		before := pool.New
		pool.New = func() any { made.Add(1); return before() }
		defer func() { pool.New = before }()
	}
	netstack := func(c HostConn) Far { return struct{ Far }{Kernel(c)} } // no connection of the kernel's
	runtime.GC()                                                         // twice empties the pool: what is in use must be made
	runtime.GC()
	var s Conns
	for range 200 {
		python, peer, _ := dialedAs(t, &s, netstack)
		for _, ends := range [][2]net.Conn{{python, peer}, {peer, python}} {
			ends[0].Write([]byte("x"))
			io.ReadFull(ends[1], make([]byte, 1))
		}
	}
	if n := made.Load(); n > 20 && !underRace {
		t.Errorf("%d buffers were made for 200 connections that are idle", n)
	}
}

func threads(t *testing.T) int {
	d, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Skip("threads are counted in /proc, which this platform lacks")
	}
	return len(d)
}

func TestHandOverNamesThePeerAndRefusesWhenFull(t *testing.T) {
	var s Conns
	ln, a := listening(t, &s)
	far, _ := tcpPair(t)
	a.HandOver(Kernel(far), peerAddr)
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if name := c.RemoteAddr().String(); !strings.HasSuffix(name, "/100.64.0.7:41234") {
		t.Errorf("the kernel calls the peer %q", name)
	}
	ln.Close()
	far, peer := tcpPair(t)
	a.HandOver(Kernel(far), peerAddr)
	if _, err := io.ReadAll(peer); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("handed to nobody, the peer sees %v", err)
	}
	a.waiting.Store(1)
	if !a.Full() {
		t.Error("not full with its backlog waiting")
	}
	a.waiting.Store(0)
	a.Close()
	a.Close()
	if !a.Full() {
		t.Error("takes connections after Close")
	}
}
