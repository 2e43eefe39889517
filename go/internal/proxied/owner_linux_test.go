package proxied

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"tailnet/internal/fault"
)

var owners Owners

// A test that needs another process starts this program again: "connect ADDRESS" connects
// and says so on stdout, until stdin ends; "owner LOCAL REMOTE" prints what OwnerUID
// returns; "forbidden" does so where seccomp refuses netlink.
func TestMain(m *testing.M) {
	if a := strings.Fields(os.Getenv("PROXIED_TEST")); len(a) > 0 {
		if err := child(a[0], a[1:]); err != nil {
			fmt.Println("failed:", err)
		}
		return
	}
	os.Exit(m.Run())
}

func child(what string, args []string) error {
	switch what {
	case "connect":
		c, err := net.Dial("tcp", args[0])
		if err != nil {
			return err
		}
		defer c.Close()
		fmt.Println("connected")
		io.ReadAll(os.Stdin)
		return nil
	case "forbidden":
		if err := forbidNetlink(); err != nil {
			return err
		}
	}
	uid, err := owners.OwnerUID(netip.MustParseAddrPort(args[0]), netip.MustParseAddrPort(args[1]))
	fmt.Println(uid, fault.Is(err, fault.Unsupported), err)
	return nil
}

// forbidNetlink makes socket(AF_NETLINK) fail with EPERM in all threads of this process.
func forbidNetlink() error {
	filter := []unix.SockFilter{ // of struct seccomp_data: nr at 0, the low half of args[0] at 16
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SOCKET, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.AF_NETLINK, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0x00050000 | uint32(unix.EPERM)}, // SECCOMP_RET_ERRNO
		{Code: unix.BPF_RET | unix.BPF_K, K: 0x7fff0000},                      // SECCOMP_RET_ALLOW
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()                                                   // the two calls are of one thread; TSYNC extends both to all
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil { // so that root is not needed
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}

// again starts this program as a child; the path works also for users who may not look
// into the directory that it is in.
func again(attr *syscall.SysProcAttr, words ...any) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "PROXIED_TEST="+strings.TrimSuffix(fmt.Sprintln(words...), "\n"))
	cmd.Dir = "/"
	cmd.SysProcAttr = attr
	return cmd
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// connectAs makes a process of another user connect, and accepts it.
func connectAs(t *testing.T, uid uint32, ln *net.TCPListener) *net.TCPConn {
	t.Helper()
	cmd := again(&syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}, "connect", ln.Addr())
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	b := make([]byte, 100)
	if n, _ := out.Read(b); string(b[:n]) != "connected\n" {
		t.Fatalf("the child says %q", b[:n])
	}
	return accept(t, ln)
}

func ends(c *net.TCPConn) (local, remote netip.AddrPort) {
	return c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
}

// peerOwner is what OwnerUID says of the other end of an accepted connection.
func peerOwner(c *net.TCPConn) (uint32, error) {
	local, remote := ends(c)
	return owners.OwnerUID(remote, local)
}

// loopbacks are the kinds of listener; the last takes IPv4 on an IPv6 socket.
var loopbacks = []string{"127.0.0.1:0", "[::1]:0", "[::]:0"}

func TestOwnConnectionsAreOurs(t *testing.T) {
	me := uint32(os.Getuid())
	for _, address := range loopbacks {
		accepted, dialed := pair(t, address)
		for name, c := range map[string]*net.TCPConn{"accepted": accepted, "dialed": dialed} {
			if uid, err := peerOwner(c); uid != me || err != nil {
				t.Errorf("%s, the peer of the %s end: %d, %v", address, name, uid, err)
			}
		}
		if uid, err := owners.AcceptedUID(accepted); uid != me || err != nil {
			t.Errorf("%s: %d, %v", address, uid, err)
		}
	}
}

// An IPv6 socket that connects to an IPv4 listener.
func TestIPv4OverAnIPv6Socket(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Skip(err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrInet6{Port: ln.Addr().(*net.TCPAddr).Port, Addr: netip.MustParseAddr("::ffff:127.0.0.1").As16()}
	if err := unix.Connect(fd, to); err != nil {
		t.Fatal(err)
	}
	if uid, err := owners.AcceptedUID(accept(t, ln)); uid != uint32(os.Getuid()) || err != nil {
		t.Errorf("%d, %v", uid, err)
	}
}

func TestAnotherUsersConnectionIsTheirs(t *testing.T) {
	needRoot(t)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		for _, uid := range []uint32{1, 65534} {
			c := connectAs(t, uid, listen(t, address))
			if got, err := peerOwner(c); got != uid || err != nil {
				t.Errorf("%s, uid %d: OwnerUID: %d, %v", address, uid, got, err)
			}
			if got, err := owners.AcceptedUID(c); got != uid || err != nil {
				t.Errorf("%s, uid %d: AcceptedUID: %d, %v", address, uid, got, err)
			}
		}
	}
}

func TestHalfClosedConnectionsHaveAnOwner(t *testing.T) {
	accepted, dialed := pair(t, "127.0.0.1:0")
	dialed.CloseWrite()
	io.ReadAll(accepted)
	if uid, err := owners.AcceptedUID(accepted); uid != uint32(os.Getuid()) || err != nil {
		t.Errorf("the peer has: %d, %v", uid, err)
	}
	accepted, _ = pair(t, "127.0.0.1:0")
	accepted.CloseWrite()
	if uid, err := peerOwner(accepted); uid != uint32(os.Getuid()) || err != nil {
		t.Errorf("we have: %d, %v", uid, err)
	}
}

// What a kernel may answer, whether or not this one does.
func TestAnswersThatNameNoOwner(t *testing.T) {
	local, remote := netip.MustParseAddrPort("127.0.0.1:40000"), netip.MustParseAddrPort("127.0.0.1:8080")
	message := func(change func(m []byte)) []byte {
		m := make([]byte, messageSize)
		m[0], m[1] = unix.AF_INET, unix.BPF_TCP_ESTABLISHED
		copy(m[messageID:], request(local, remote)[requestID:])
		m[messageUID], m[messageNode] = 5, 1
		if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 { // big endian
			m[messageUID], m[messageUID+3] = 0, 5
		}
		change(m)
		return m
	}
	state := func(s byte) func([]byte) { return func(m []byte) { m[1] = s } }
	if uid, err := owner(message(state(unix.BPF_TCP_FIN_WAIT2)), local, remote); uid != 5 || err != nil {
		t.Errorf("%d, %v", uid, err)
	}
	if uid, err := owner(message(func([]byte) {})[:messageSize-1], local, remote); !fault.Is(err, fault.Unsupported) {
		t.Errorf("cut off: %d, %v", uid, err)
	}
	for name, change := range map[string]func([]byte){
		"SYN_SENT":            state(unix.BPF_TCP_SYN_SENT),
		"SYN_RECV":            state(unix.BPF_TCP_SYN_RECV),
		"TIME_WAIT":           state(unix.BPF_TCP_TIME_WAIT),
		"CLOSE":               state(unix.BPF_TCP_CLOSE),
		"LISTEN":              state(unix.BPF_TCP_LISTEN),
		"NEW_SYN_RECV":        state(unix.BPF_TCP_NEW_SYN_RECV),
		"no inode":            func(m []byte) { clear(m[messageNode:]) },
		"another port":        func(m []byte) { m[messageID+idPorts]++ },
		"another peer's port": func(m []byte) { m[messageID+idPorts+2]++ },
		"another address":     func(m []byte) { m[messageID+idSource]++ },
		"another peer":        func(m []byte) { m[messageID+idDestination]++ },
		"another family":      func(m []byte) { m[0] = unix.AF_INET6 },
	} {
		uid, err := owner(message(change), local, remote)
		refused(t, name, uid, err)
	}
}

func refused(t *testing.T, what string, uid uint32, err error) {
	t.Helper()
	t.Logf("%s: %v", what, err)
	if err == nil || fault.Is(err, fault.Unsupported) {
		t.Errorf("%s: %d, %v", what, uid, err)
	}
}

func TestClosedConnectionsHaveNoOwner(t *testing.T) {
	accepted, dialed := pair(t, "127.0.0.1:0")
	local, remote := ends(accepted)

	dialed.Close()
	io.ReadAll(accepted)
	uid, err := owners.OwnerUID(remote, local)
	refused(t, "closed by its owner alone (FIN_WAIT2)", uid, err)
	uid, err = owners.AcceptedUID(accepted)
	refused(t, "the same, of AcceptedUID", uid, err)

	accepted.Close()
	for end := time.Now().Add(long); ; time.Sleep(time.Millisecond) {
		m, err := owners.ask(request(remote, local))
		if err != nil {
			t.Fatalf("not in TIME_WAIT: %v", err)
		}
		if m[1] == unix.BPF_TCP_TIME_WAIT {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("in state %d for ever", m[1])
		}
	}
	uid, err = owners.OwnerUID(remote, local)
	refused(t, "in TIME_WAIT", uid, err)
	uid, err = owners.OwnerUID(local, remote)
	refused(t, "the end that closed last", uid, err)

	accepted, dialed = pair(t, "[::1]:0")
	local, remote = ends(accepted)
	dialed.SetLinger(0)
	dialed.Close()
	uid, err = owners.OwnerUID(remote, local)
	refused(t, "reset", uid, err)
}

// Where there is no connection the kernel answers with the listener.
func TestAListenerIsNoConnection(t *testing.T) {
	for _, address := range loopbacks {
		ln := listen(t, address)
		at := ln.Addr().(*net.TCPAddr).AddrPort()
		if at.Addr().IsUnspecified() {
			at = netip.AddrPortFrom(netip.IPv6Loopback(), at.Port())
		}
		uid, err := owners.OwnerUID(at, netip.AddrPortFrom(at.Addr(), 1))
		refused(t, address, uid, err)
	}
}

func TestAddressesThatNothingJoins(t *testing.T) {
	four, six := netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("[::1]:1")
	for _, a := range [][2]netip.AddrPort{{four, four}, {six, six}, {four, six}, {}} {
		uid, err := owners.OwnerUID(a[0], a[1])
		refused(t, fmt.Sprint(a), uid, err)
	}
}

// Somebody writes a header, resets, and leaves the port to another. What was written is
// still there to be read.
func TestAPortThatWasPassedOn(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	var first *net.TCPConn
	var honest net.Conn
	for range 20 { // the port may be taken, by who is connected from there to elsewhere
		forger, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		forger.Write(header(t, src4, dst4))
		forger.(*net.TCPConn).SetLinger(0)
		forger.Close()
		first = accept(t, ln)
		d := net.Dialer{LocalAddr: forger.LocalAddr()}
		if honest, err = d.Dial("tcp", ln.Addr().String()); err == nil {
			break
		}
	}
	if honest == nil {
		t.Fatal("no port could be passed on")
	}
	defer honest.Close()
	second := accept(t, ln)

	if _, err := peerOwner(first); err != nil {
		t.Errorf("OwnerUID sees the difference by itself: %v", err)
	}
	uid, err := owners.AcceptedUID(first)
	refused(t, "the forger's connection", uid, err)
	if src, _, err := ReadHeader(first, long); err != nil || src.String() != src4 {
		t.Errorf("the forger's header is lost: %v, %v", src, err)
	}
	if uid, err := owners.AcceptedUID(second); uid != uint32(os.Getuid()) || err != nil {
		t.Errorf("the honest connection: %d, %v", uid, err)
	}
}

func TestUsersOutsideOfTheNamespaceAreNotToldApart(t *testing.T) {
	needRoot(t)
	c := connectAs(t, 2, listen(t, "127.0.0.1:0"))
	local, remote := ends(c)
	for container, expect := range map[int]string{1: "0 true uid 65534 stands for every user outside of this user namespace", 2: "7 false <nil>"} {
		ids := []syscall.SysProcIDMap{{ContainerID: 7, HostID: container, Size: 1}}
		out, err := again(&syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids},
			"owner", remote, local).Output()
		if err != nil {
			t.Skip("no user namespaces here: ", err)
		}
		if got := strings.TrimSpace(string(out)); got != expect {
			t.Errorf("where user %d is known: %s", container, got)
		}
	}
}

func TestWithoutNetlinkTheErrorSaysSo(t *testing.T) {
	c, _ := pair(t, "127.0.0.1:0")
	local, remote := ends(c)
	out, err := again(nil, "forbidden", remote, local).Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.TrimSpace(string(out))
	t.Log(got)
	if !strings.HasPrefix(got, "0 true cannot ask Linux who owns ") || !strings.HasSuffix(got, "operation not permitted") {
		t.Error(got)
	}
}

// One socket is kept for all questions, and one that has failed is not.
func TestOwnersKeepOneSocket(t *testing.T) {
	open := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(d)
	}
	c, _ := pair(t, "127.0.0.1:0")
	before := open()
	var o Owners
	for range 10 {
		if _, err := o.AcceptedUID(c); err != nil {
			t.Fatal(err)
		}
	}
	if now := open(); now != before+1 {
		t.Errorf("%d descriptors became %d", before, now)
	}
	nobody := netip.MustParseAddrPort("127.0.0.1:1")
	if _, err := o.OwnerUID(nobody, nobody); err == nil {
		t.Error("there is an owner of nothing")
	}
	if now := open(); now != before {
		t.Errorf("%d descriptors became %d after a failure", before, now)
	}
	if _, err := o.AcceptedUID(c); err != nil {
		t.Error(err)
	}
	o.Close()
	o.Close()
	if now := open(); now != before {
		t.Errorf("%d descriptors became %d after Close", before, now)
	}
}

func BenchmarkOwnerUID(b *testing.B) {
	c, _ := pair(b, "127.0.0.1:0")
	local, remote := ends(c)
	for b.Loop() {
		if _, err := owners.OwnerUID(remote, local); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAcceptedUID(b *testing.B) {
	c, _ := pair(b, "127.0.0.1:0")
	for b.Loop() {
		if _, err := owners.AcceptedUID(c); err != nil {
			b.Fatal(err)
		}
	}
}
