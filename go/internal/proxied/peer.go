package proxied

import (
	"net"

	"tailnet/internal/fault"
)

// PeerUID returns the uid at the other end of c, a connected unix socket: of the process
// that called listen(2), where c was dialed, and connect(2), where it was accepted.
func PeerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, fault.For(fault.Unsupported, err, "cannot ask who owns a unix socket")
	}
	var uid uint32
	if cerr := raw.Control(func(fd uintptr) { uid, err = peerUID(int(fd)) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return 0, fault.For(fault.Unsupported, err, "cannot ask who owns a unix socket")
	}
	return known(uid)
}
