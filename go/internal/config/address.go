package config

import (
	"cmp"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"tailscale.com/util/dnsname"

	"tailnet/internal/fault"
)

// An Address is a host (a name, an IP, or "" for any) and a port.
type Address struct {
	Host string
	Port uint16
}

func (a Address) String() string { return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port))) }

// ParseAddress reads "host:port", "[v6]:port" or ":port".
func ParseAddress(s string) (Address, error) {
	if strings.Contains(s, "/") {
		return Address{}, notAnAddress(s)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		help := ""
		if _, err := strconv.ParseUint(s, 10, 16); err == nil {
			help = `; port ` + s + ` of this node is ":` + s + `"`
		}
		return Address{}, fault.New(fault.Config, "address %q: want host:port, [v6]:port or :port%s", s, help)
	}
	if p, err := strconv.ParseUint(port, 10, 16); err == nil {
		return Address{host, uint16(p)}, nil
	}
	if p, err := net.LookupPort("tcp", strings.ToLower(port)); err == nil && p > 0 {
		return Address{}, fault.New(fault.Config, "address %q: the port must be a number, and %q is the name of a service; write %q", s, port, Address{host, uint16(p)})
	}
	return Address{}, fault.New(fault.Config, "address %q: the port must be a number, 0 to 65535", s)
}

// webPorts are those that a URL leaves out.
var webPorts = map[string]string{"http": "80", "ws": "80", "https": "443", "wss": "443"}

// notAnAddress says what to write in the place of a URL, whose password it does not show.
func notAnAddress(s string) error {
	whole := s
	if !strings.Contains(s, "://") {
		whole = "//" + s
	}
	u, err := url.Parse(whole)
	if err != nil || u.Hostname() == "" {
		return fault.New(fault.Config, "address: want host:port, [v6]:port or :port, and not a URL or a path")
	}
	return fault.New(fault.Config, "address %q is a URL; write its host and port: %q",
		strings.TrimPrefix(u.Redacted(), "//"), net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), webPorts[u.Scheme], "PORT")))
}

// HostOf returns the host of "host", "host:port", an IP address or "[v6]:port"; "" where there is none.
func HostOf(s string) string {
	if addr, err := ParseAddress(s); err == nil {
		s = addr.Host
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return s
	}
	if _, err := dnsname.ToFQDN(s); err != nil || strings.Trim(s, ".") == "" || strings.ContainsAny(s, " :/") {
		return ""
	}
	return s
}
