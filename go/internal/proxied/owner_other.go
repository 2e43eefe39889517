//go:build !linux

package proxied

import (
	"net"
	"net/netip"
	"runtime"

	"tailnet/internal/fault"
)

// Owners knows nothing on this platform.
type Owners struct{}

// Close does nothing.
func (*Owners) Close() {}

// AcceptedUID cannot be known on this platform.
func (*Owners) AcceptedUID(*net.TCPConn) (uint32, error) { return 0, unknowable() }

// OwnerUID cannot be known on this platform.
func (*Owners) OwnerUID(local, remote netip.AddrPort) (uid uint32, err error) { return 0, unknowable() }

func unknowable() error {
	return fault.New(fault.Unsupported, "who owns a TCP connection cannot be known on %s", runtime.GOOS)
}
