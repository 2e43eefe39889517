package session

import (
	"net/netip"
	"strings"

	"tailnet/internal/config"
	"tailnet/internal/fault"
)

// Ports for "any": tsnet's own range (tsnet.go, listen).
const FirstAny, LastAny = 10002, 19999

// Addresses are this node's, for a person.
func (s *Session) Addresses() string {
	var text []string
	for _, own := range s.Self.IPs {
		text = append(text, own.String())
	}
	return strings.Join(text, " and ")
}

// OwnAddr reports whether ip is an address of this node.
func (s *Session) OwnAddr(ip netip.Addr) bool {
	for _, own := range s.Self.IPs {
		if own == ip {
			return true
		}
	}
	return false
}

// ListenOn returns the addresses that a listener on addr is for.
func (s *Session) ListenOn(addr config.Address) ([]netip.Addr, error) {
	if addr.Host == "" {
		return s.Self.IPs, nil
	}
	ip, err := netip.ParseAddr(addr.Host)
	if err != nil {
		return nil, fault.New(fault.Config, "cannot listen on %v: the host must be empty or an IP address of this node", addr)
	}
	ip = ip.Unmap()
	var on []netip.Addr
	for _, own := range s.Self.IPs {
		if own == ip || ip == netip.IPv6Unspecified() || ip.IsUnspecified() && own.Is4() {
			on = append(on, own)
		}
	}
	if len(on) == 0 {
		return nil, fault.New(fault.AddressNotAvailable, "cannot listen on %v: %v is not an address of node %q (it has %s)",
			addr, ip, s.Self.Hostname, s.Addresses())
	}
	return on, nil
}
