package bridge

import (
	"bytes"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A connection ends, and carries, by copies as it does by pipes.
func TestWithoutAPipe(t *testing.T) {
	pretend := func(can func() bool) {
		pipes.mu.Lock() // connections of other tests may still end
		defer pipes.mu.Unlock()
		canSplice = can
	}
	defer pretend(canSplice)
	pretend(func() bool { return false })
	eventually(t, "no pipe is left", func() bool { pipes.closeIdle(); made, _ := pipes.count(); return made == 0 })
	for name, test := range map[string]func(*testing.T){
		"first":   TestWhatThePeerSaysFirstComesAfterTheAnswer,
		"both":    TestBothDirectionsAtOnceArriveIdentical,
		"half":    TestLateReplyArrivesAfterHalfClose,
		"reset":   TestResetIsRememberedBeforePythonSeesTheEnd,
		"close":   TestPythonsCloseDeliversWhatItWrote,
		"dropped": TestWhatComesAfterPythonWantsToReadNoMoreIsDropped,
		"gone":    TestAnEndOfADaemonThatHasGoneIsAReset,
		"drain":   TestDrainDeliversAndEnds,
	} {
		t.Run(name, test)
	}
	if made, _ := pipes.count(); made != 0 {
		t.Errorf("%d pipes", made)
	}
}

func (s *pool) count() (made, idle int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.made, len(s.idle)
}

// echoes sends through a connection and back.
func echoes(t *testing.T, python *net.UnixConn, peer *net.TCPConn) {
	t.Helper()
	for _, ends := range [][2]net.Conn{{python, peer}, {peer, python}} {
		ends[0].Write([]byte("message"))
		got := make([]byte, 7)
		if _, err := io.ReadFull(ends[1], got); string(got) != "message" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

func TestIdleConnectionsHoldNoPipes(t *testing.T) {
	var s Conns
	eventually(t, "no connection of another test has one", func() bool { made, idle := pipes.count(); return made == idle })
	before := descriptors(t)
	for range 100 {
		python, peer, _ := dialed(t, &s)
		echoes(t, python, peer)
	}
	eventually(t, "all pipes are idle", func() bool { made, idle := pipes.count(); return made == idle })
	if made, _ := pipes.count(); made == 0 || made > 8 {
		t.Errorf("%d pipes for 100 connections in turn", made)
	}
	closed := func() bool { made, _ := pipes.count(); return made == 0 }
	eventually(t, "the pipes are closed", closed)
	s.Drain(0)
	eventually(t, "those that the ends took are closed", closed)
	if now := descriptors(t); now > before+200 { // the tests' own ends
		t.Errorf("%d descriptors became %d", before, now)
	}
}

// What comes between two looks is no sign of urgent data.
func TestMessagesGoOnByPipes(t *testing.T) {
	var s Conns
	var far *kernelConn
	python, peer, _ := dialedAs(t, &s, func(c HostConn) Far { far = newKernelConn(c); return far })
	for range 5000 {
		echoes(t, python, peer)
	}
	if far.copies.Load() {
		t.Error("they are copied")
	}
}

func descriptors(t *testing.T) int {
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func TestMoreStallThanThereArePipes(t *testing.T) {
	var s Conns
	data := random(4 << 20)
	type ends struct {
		python *net.UnixConn
		peer   *net.TCPConn
	}
	var stalled []ends
	for range mostPipes + 8 {
		python, peer, _ := dialed(t, &s)
		stalled = append(stalled, ends{python, peer})
		go func() { peer.Write(data); peer.CloseWrite() }()
	}
	eventually(t, "every pipe waits for Python", func() bool { made, idle := pipes.count(); return made-idle == mostPipes })
	python, peer, _ := dialed(t, &s)
	echoes(t, python, peer)
	for _, c := range stalled {
		if got, err := io.ReadAll(c.python); !bytes.Equal(got, data) || err != nil {
			t.Fatalf("%d of %d bytes, %v", len(got), len(data), err)
		}
	}
}

// What a connection left in a pipe must not come out in another one.
func TestAPipeWithLeftoversIsNotUsedAgain(t *testing.T) {
	var s Conns
	for _, leave := range []func(python *net.UnixConn, peer *net.TCPConn){
		func(python *net.UnixConn, peer *net.TCPConn) {
			go peer.Write(random(8 << 20))
			eventually(t, "a pipe waits", func() bool { made, idle := pipes.count(); return made > idle })
			python.Close()
		},
		func(python *net.UnixConn, peer *net.TCPConn) {
			go python.Write(random(16 << 20))
			eventually(t, "a pipe waits", func() bool { made, idle := pipes.count(); return made > idle })
			peer.SetLinger(0)
			peer.Close()
		},
	} {
		for range 8 {
			python, peer, _ := dialed(t, &s)
			leave(python, peer)
		}
		eventually(t, "they are forgotten", func() bool { return s.Len() == 0 })
		pipes.mu.Lock()
		for _, p := range pipes.idle {
			if n, err := unix.IoctlGetInt(p.r, unix.TIOCINQ); n != 0 || err != nil {
				t.Errorf("an idle pipe holds %d bytes (%v)", n, err)
			}
		}
		pipes.mu.Unlock()
		python, peer, _ := dialed(t, &s)
		echoes(t, python, peer)
		python.Close()
		peer.Close()
		eventually(t, "it is forgotten", func() bool { return s.Len() == 0 })
	}
}

func TestNoDescriptorForAPipe(t *testing.T) {
	var s Conns
	python, peer, _ := dialed(t, &s)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 3 // as many are open
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	eventually(t, "no pipe is left", func() bool { pipes.closeIdle(); made, _ := pipes.count(); return made == 0 })
	echoes(t, python, peer)
	if made, _ := pipes.count(); made != 0 {
		t.Errorf("%d pipes without a descriptor", made)
	}
}

// splice(2) stops where urgent data begin, and says that there is nothing, or the end.
func TestUrgentDataArePassedOver(t *testing.T) {
	for name, parts := range map[string][]string{
		"middle": {"before", "!", "after"}, "first": {"", "!", "after"}, "last": {"before", "!", ""},
	} {
		for _, waits := range []bool{true, false} {
			var s Conns
			python, peer, _ := dialed(t, &s)
			raw, err := peer.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			want := ""
			for i, part := range parts {
				if i%2 == 0 {
					peer.Write([]byte(part))
					want += part
				} else if err := raw.Control(func(fd uintptr) { unix.Send(int(fd), []byte(part), unix.MSG_OOB) }); err != nil {
					t.Fatal(err)
				}
			}
			if waits { // for the bytes before it says the end
				if _, err := io.ReadFull(python, make([]byte, len(want))); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				want = ""
				echoes(t, python, peer)
			}
			peer.CloseWrite()
			if got, err := io.ReadAll(python); string(got) != want || err != nil {
				t.Errorf("%s: %q and not %q, %v", name, got, want, err)
			}
		}
	}
}

func TestAFilterOfSystemCallsIsNoticed(t *testing.T) {
	refused := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and the thread, which alone has the filter, ends with this
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			refused <- err
			return
		}
		deny := []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the call's number
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SPLICE, Jf: 1},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		}
		program := unix.SockFprog{Len: uint16(len(deny)), Filter: &deny[0]}
		if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
			refused <- err
			return
		}
		_, err := splice(-1, -1, 0)
		refused <- err
	}()
	select {
	case err := <-refused:
		if err != unix.EPERM {
			t.Errorf("with a filter: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the filter's thread does not answer")
	}
	if !canSplice() {
		t.Error("cannot, here")
	}
}
