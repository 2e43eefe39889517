package proxied

import (
	"encoding/binary"
	"errors"
	"net"

	"golang.org/x/sys/unix"

	"tailnet/internal/fault"
)

// The structures of linux/unix_diag.h: unix_diag_req and unix_diag_msg.
const (
	unixRequestSize = 24 // family, protocol, padding, states (4), inode (4), show (4), cookie (8)
	unixMessageSize = 16 // family, type, state, padding, inode (4), cookie (8)

	showPeer = 4 // UDIAG_SHOW_PEER
	peerAttr = 2 // UNIX_DIAG_PEER
)

// SameNetwork reports whether the process at the other end of c, a connected unix socket,
// made its end in this network namespace: a socket file may be shared with a container,
// and 127.0.0.1 is not. Where Linux does not tell, it is taken to be so.
func SameNetwork(c *net.UnixConn) (bool, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false, fault.For(fault.Internal, err, "network namespace")
	}
	var st unix.Stat_t
	if cerr := raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &st) }); cerr != nil || err != nil {
		return false, fault.For(fault.Internal, errors.Join(cerr, err), "network namespace")
	}
	m, err := ask(unixRequest(uint32(st.Ino)))
	if err != nil || len(m) < unixMessageSize {
		return true, nil
	}
	for attrs := m[unixMessageSize:]; len(attrs) >= 8; {
		size := int(binary.NativeEndian.Uint16(attrs))
		if binary.NativeEndian.Uint16(attrs[2:]) == peerAttr {
			// Of another namespace, the kernel says that there is no such socket
			// (unix_diag_get_exact in net/unix/diag.c).
			_, err := ask(unixRequest(binary.NativeEndian.Uint32(attrs[4:])))
			return !errors.Is(err, unix.ENOENT), nil
		}
		attrs = attrs[min(len(attrs), max(size+3, 4)&^3):]
	}
	return true, nil
}

func unixRequest(inode uint32) []byte {
	b := make([]byte, unixRequestSize)
	b[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(b[4:], ^uint32(0))
	binary.NativeEndian.PutUint32(b[8:], inode)
	binary.NativeEndian.PutUint32(b[12:], showPeer)
	binary.NativeEndian.PutUint64(b[16:], ^uint64(0)) // INET_DIAG_NOCOOKIE, twice
	return b
}
