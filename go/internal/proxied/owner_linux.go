package proxied

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"tailnet/internal/fault"
)

// The structures of linux/inet_diag.h: inet_diag_req_v2, inet_diag_msg, and in both of them
// inet_diag_sockid. Ports and addresses are in network order, all other numbers in native.
const (
	requestSize = 56 // family, protocol, extensions, padding, states (4), sockid (48)
	requestID   = 8
	messageSize = 72 // family, state, timer, retransmits, sockid (48), expires, queues (2×4), uid, inode
	messageID   = 4
	messageUID  = 64
	messageNode = 68

	// In a sockid: source and destination port, then the addresses, 16 bytes each, then
	// the interface and the cookie.
	idPorts, idSource, idDestination, idCookie = 0, 4, 20, 40

	// answerLimit: the kernel answers within the send. This is for one that does not.
	answerLimit = 5 * time.Second
)

// Owners asks Linux who owns sockets, one question at a time. The zero Owners is ready.
type Owners struct{ kernel *netlink.Conn }

// Close frees what the next question would open again.
func (o *Owners) Close() {
	if o.kernel != nil {
		o.kernel.Close()
		o.kernel = nil
	}
}

// AcceptedUID returns the uid that owns the other end of c, a connection that was accepted
// from this host. It is to be asked at once after accept(2): a peer that has closed its end
// meanwhile has no owner any more, and is refused.
//
// OwnerUID alone would not do. Somebody connects, writes a header, and resets; what was
// written can still be read from c, but the pair of addresses is free again, and the
// daemon's next connection to us may be given the same port: OwnerUID would then speak of
// the daemon. While our own end is established, a SYN from that port finds it instead of
// the listener, and nobody else can be established from there. So it is enough to see,
// after asking, that our end is.
func (o *Owners) AcceptedUID(c *net.TCPConn) (uint32, error) {
	local, ok1 := c.LocalAddr().(*net.TCPAddr)
	remote, ok2 := c.RemoteAddr().(*net.TCPAddr)
	if !ok1 || !ok2 {
		return 0, errors.New("the connection has no addresses")
	}
	uid, err := o.OwnerUID(remote.AddrPort(), local.AddrPort())
	if err != nil {
		return 0, err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	if cerr := raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, err
	}
	// CLOSE_WAIT: the peer has sent its FIN, and our end is where it was.
	if info.State != unix.BPF_TCP_ESTABLISHED && info.State != unix.BPF_TCP_CLOSE_WAIT {
		return 0, fmt.Errorf("the connection from %v was reset (state %d)", remote, info.State)
	}
	return uid, nil
}

// OwnerUID returns the uid that owns the TCP socket of this host (this network namespace)
// whose own address is local and whose peer is remote. An error with fault.Unsupported says
// that Linux will not tell, one with fault.Resource that it cannot now; any other one, that
// there is no such socket, or that no process has it.
//
// It is the uid of the process that made the socket, even where that has become another
// user since, or has given the socket away.
func (o *Owners) OwnerUID(local, remote netip.AddrPort) (uid uint32, err error) {
	local, remote = unmap(local), unmap(remote)
	if local.Addr().BitLen() != remote.Addr().BitLen() || !local.IsValid() {
		return 0, fmt.Errorf("no socket joins %v to %v", local, remote)
	}
	m, err := o.ask(request(local, remote))
	if errors.Is(err, unix.ENOENT) { // a kernel built without tcp_diag says so too
		return 0, fmt.Errorf("no socket joins %v to %v: %w", local, remote, err)
	}
	if err != nil {
		// Refused by a container or seccomp, or not there, as in gVisor: the errno says which.
		return 0, fault.For(fault.Unsupported, err, "cannot ask Linux who owns %v (NETLINK_SOCK_DIAG)", local)
	}
	return owner(m, local, remote)
}

// request is an inet_diag_req_v2 for one socket.
func request(local, remote netip.AddrPort) []byte {
	b := make([]byte, requestSize)
	b[0], b[1] = unix.AF_INET, unix.IPPROTO_TCP
	if local.Addr().Is6() {
		b[0] = unix.AF_INET6
	}
	binary.NativeEndian.PutUint32(b[4:], ^uint32(0)) // states: all; unheeded but in a dump
	id := b[requestID:]
	binary.BigEndian.PutUint16(id[idPorts:], local.Port())
	binary.BigEndian.PutUint16(id[idPorts+2:], remote.Port())
	copy(id[idSource:], local.Addr().AsSlice())
	copy(id[idDestination:], remote.Addr().AsSlice())
	binary.NativeEndian.PutUint64(id[idCookie:], ^uint64(0)) // INET_DIAG_NOCOOKIE, twice
	return b
}

// ask makes one exact query (no NLM_F_DUMP) and returns the inet_diag_msg. The socket is kept,
// as it costs more than the question, but not where that failed: its answer may still come.
func (o *Owners) ask(request []byte) (_ []byte, err error) {
	defer func() {
		if err != nil {
			o.Close()
		}
	}()
	if o.kernel == nil {
		if o.kernel, err = netlink.Dial(unix.NETLINK_SOCK_DIAG, nil); err != nil {
			return nil, err
		}
	}
	if err := o.kernel.SetDeadline(time.Now().Add(answerLimit)); err != nil {
		return nil, err
	}
	answer, err := o.kernel.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request},
		Data:   request,
	})
	if err != nil {
		return nil, err
	}
	if len(answer) != 1 || answer[0].Header.Type != unix.SOCK_DIAG_BY_FAMILY || len(answer[0].Data) < 16 {
		return nil, fmt.Errorf("%d messages that are no answer", len(answer))
	}
	return answer[0].Data, nil
}

// owner reads the uid out of an inet_diag_msg, if it is about the socket asked for and a
// process has that.
func owner(m []byte, local, remote netip.AddrPort) (uint32, error) {
	if len(m) < messageSize {
		return 0, fault.New(fault.Unsupported, "Linux answers who owns %v in %d bytes, not %d", local, len(m), messageSize)
	}
	// Where no connection fits, the kernel looks for a listener at the local address
	// (inet_lookup in inet_diag_find_one_icsk, net/ipv4/inet_diag.c): that is another socket,
	// maybe of another user.
	id := m[messageID:]
	if l, r := address(m[0], id[idSource:], id[idPorts:]), address(m[0], id[idDestination:], id[idPorts+2:]); l != local || r != remote {
		return 0, fmt.Errorf("no socket joins %v to %v, but there is %v to %v", local, remote, l, r)
	}
	// Only the states that the peer of an accepted connection can be in. Somebody who is
	// still connecting from there (SYN_SENT) is not the one whom we have accepted.
	state := m[1]
	switch state {
	case unix.BPF_TCP_ESTABLISHED,
		unix.BPF_TCP_FIN_WAIT1, unix.BPF_TCP_FIN_WAIT2, // it has half-closed
		unix.BPF_TCP_CLOSE_WAIT, unix.BPF_TCP_LAST_ACK, unix.BPF_TCP_CLOSING: // we have
	default:
		return 0, fmt.Errorf("the socket that joins %v to %v is in state %d", local, remote, state)
	}
	// After close(2) a socket lives on without a process while it delivers, and then in
	// TIME_WAIT, which may also call itself FIN_WAIT2 (tw_substate). Its uid is then 0
	// whosever it was: in TIME_WAIT always, before that on kernels older than c51da3f7a161
	// ("net: remove sock_i_uid()", 2025). That would be root, as the daemon is. But it has
	// no inode either.
	if binary.NativeEndian.Uint32(m[messageNode:]) == 0 {
		return 0, fmt.Errorf("the socket that joins %v to %v was closed by its owner (state %d)", local, remote, state)
	}
	return known(binary.NativeEndian.Uint32(m[messageUID:]))
}

// address reads one end. An IPv6 socket may be connected by IPv4.
func address(family byte, ip, port []byte) netip.AddrPort {
	n := 16
	if family == unix.AF_INET {
		n = 4
	}
	a, _ := netip.AddrFromSlice(ip[:n])
	return unmap(netip.AddrPortFrom(a, binary.BigEndian.Uint16(port)))
}
