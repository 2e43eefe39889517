package session

import (
	"context"
	"maps"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
	"tailscale.com/client/local"
	"tailscale.com/net/tsaddr"

	"tailnet/internal/fault"
)

// Resolve finds the address of a host: an IP address, or a name of the tailnet.
func (s *Session) Resolve(ctx context.Context, host string) (netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap(), nil
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	ip, generation := s.cache.name(name)
	if ip.IsValid() {
		return ip, nil
	}
	full := name
	if !strings.Contains(name, ".") {
		if _, suffix, ok := strings.Cut(s.Self.FQDN, "."); ok {
			full = name + "." + suffix
		}
	}
	for _, kind := range []string{"A", "AAAA"} {
		answer, _, err := s.Slow.QueryDNS(ctx, full+".", kind)
		if ctx.Err() != nil {
			return netip.Addr{}, ctx.Err()
		}
		if local.IsAccessDeniedError(err) { // a tailscaled answers these to root and the operator
			return s.resolveByMap(ctx, host, full, generation)
		}
		if err != nil {
			continue
		}
		if ip := firstAddr(answer); ip.IsValid() {
			if tsaddr.IsTailscaleIP(ip) { // others have lifetimes of their own
				s.cache.setName(name, ip, generation)
			}
			return ip, nil
		}
	}
	return netip.Addr{}, s.noName(ctx, host)
}

// resolveByMap finds a machine of the tailnet by its name, and no other name.
func (s *Session) resolveByMap(ctx context.Context, host, full string, generation uint64) (netip.Addr, error) {
	st, err := s.Local.Status(ctx)
	if err != nil {
		return netip.Addr{}, s.Failed(ctx, "status", err)
	}
	for p := range maps.Values(st.Peer) {
		if strings.EqualFold(strings.TrimSuffix(p.DNSName, "."), full) && len(p.TailscaleIPs) > 0 {
			s.cache.setName(strings.ToLower(strings.TrimSuffix(host, ".")), p.TailscaleIPs[0], generation)
			return p.TailscaleIPs[0], nil
		}
	}
	if strings.EqualFold(s.Self.FQDN, full) {
		return s.Self.IPs[0], nil
	}
	return netip.Addr{}, s.noName(ctx, host)
}

func (s *Session) noName(ctx context.Context, host string) error {
	if err := s.host.WhyNot(ctx); err != nil {
		return err
	}
	return fault.New(fault.Name, "the tailnet knows no machine or name %q; status().peers has the names it knows", host)
}

func firstAddr(answer []byte) netip.Addr {
	var m dnsmessage.Message
	if m.Unpack(answer) != nil {
		return netip.Addr{}
	}
	for _, r := range m.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			return netip.AddrFrom4(b.A)
		case *dnsmessage.AAAAResource:
			return netip.AddrFrom16(b.AAAA)
		}
	}
	return netip.Addr{}
}
