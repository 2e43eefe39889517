//go:build !linux

package proxied

import "net"

// SameNetwork cannot be known on this platform, nor can what it is asked for.
func SameNetwork(*net.UnixConn) (bool, error) { return false, unknowable() }
