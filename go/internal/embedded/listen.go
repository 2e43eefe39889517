package embedded

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"tailnet/internal/bridge"
	"tailnet/internal/config"
	"tailnet/internal/fault"
	"tailnet/internal/session"
)

/*
Connections come through tsnet's fallback TCP handler and not through its Listen:
it is asked before the handshake, so a full backlog refuses with a RST, and it has
neither Listen's limit of one second to accept, nor a goroutine for each listener.
*/

// ports are the listeners of a node.
type ports struct {
	mu sync.Mutex
	m  map[port]*bridge.Acceptor
}

// port is where a listener listens; the zero Addr is every address of the node, an
// unspecified IPv4 one every IPv4 address.
type port struct {
	ip     netip.Addr
	number uint16
}

// Listen adds a listener; stop removes it.
func (e *Backend) Listen(_ context.Context, addr config.Address, a *bridge.Acceptor) (uint16, func(), error) {
	s, err := e.running()
	if err != nil {
		return 0, nil, err
	}
	if err := s.WasRemoved(); err != nil {
		return 0, nil, err
	}
	var ip netip.Addr
	if addr.Host != "" {
		if ip, err = netip.ParseAddr(addr.Host); err != nil {
			return 0, nil, fault.New(fault.Config, "cannot listen on %v: the host must be empty or an IP address of this node", addr)
		}
		ip = ip.Unmap()
		switch {
		case ip == netip.IPv6Unspecified(): // as the kernel has it, IPv4 included
			ip = netip.Addr{}
		case ip.IsUnspecified() || s.OwnAddr(ip) || e.advertises(ip):
		default:
			return 0, nil, fault.New(fault.AddressNotAvailable, "cannot listen on %v: %v is not an address of node %q (it has %s)",
				addr, ip, s.Self.Hostname, s.Addresses())
		}
	}
	a.Options = stackOptions()
	number, err := e.ports.add(port{ip, addr.Port}, a)
	if err != nil {
		return 0, nil, err
	}
	return number, func() { e.ports.remove(port{ip, number}) }, nil
}

func (e *Backend) advertises(ip netip.Addr) bool {
	for _, r := range e.cfg.Routes {
		if r.Contains(ip) {
			return true
		}
	}
	return false
}

func (p *ports) add(at port, a *bridge.Acceptor) (uint16, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m == nil {
		p.m = map[port]*bridge.Acceptor{}
	}
	if at.number == 0 {
		for at.number = session.FirstAny; at.number <= session.LastAny && p.takenLocked(at); at.number++ {
		}
		if at.number > session.LastAny {
			return 0, fault.New(fault.AddressInUse, "cannot listen: ports %d to %d are all in use on this node; close listeners", session.FirstAny, session.LastAny)
		}
	} else if p.takenLocked(at) {
		return 0, fault.New(fault.AddressInUse, "cannot listen on port %d: another listener of this node has it; close that one, or give another port", at.number)
	}
	p.m[at] = a
	return at.number, nil
}

// takenLocked reports whether a listener already gets what one at `at` would: two
// overlap unless they name different addresses.
func (p *ports) takenLocked(at port) bool {
	for other := range p.m {
		if other.number == at.number && (covers(at.ip, other.ip) || covers(other.ip, at.ip)) {
			return true
		}
	}
	return false
}

// covers reports whether a listener on ip gets connections to those of other.
func covers(ip, other netip.Addr) bool {
	return !ip.IsValid() || ip == other || ip.IsUnspecified() && other.Is4()
}

// end tells everybody who waits for a connection that none will come.
func (p *ports) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.m {
		a.End()
	}
}

func (p *ports) remove(at port) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.m, at)
}

func (p *ports) at(dst netip.AddrPort, own bool) *bridge.Acceptor {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.m[port{dst.Addr(), dst.Port()}]; a != nil {
		return a
	}
	if !own { // a wildcard is this node's addresses, not those it routes for others
		return nil
	}
	if dst.Addr().Is4() {
		if a := p.m[port{netip.IPv4Unspecified(), dst.Port()}]; a != nil {
			return a
		}
	}
	return p.m[port{netip.Addr{}, dst.Port()}]
}

// accept is asked at a connection's first packet: it returns what takes the
// connection once its handshake is done, or nil, and the peer is refused.
func (e *Backend) accept(src, dst netip.AddrPort) (handler func(net.Conn), intercept bool) {
	bridge.Ending() // a handshake; thousands of them may never become connections
	s, err := e.running()
	if err != nil {
		return nil, true
	}
	a := e.ports.at(dst, s.OwnAddr(dst.Addr()))
	if a == nil || a.Full() {
		return nil, true
	}
	return func(c net.Conn) {
		far, err := newFar(c)
		if err != nil {
			e.log.At("error")("connection from %v: %v", src, err)
			c.Close()
			return
		}
		a.HandOver(far, src)
	}, true
}
