package sidecar

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"tailscale.com/client/tailscale/apitype"
	"tailscale.com/safesocket"
	"tailscale.com/tailcfg"

	"tailnet/internal/bridge"
	"tailnet/internal/config"
	"tailnet/internal/fault"
	"tailnet/internal/session"
)

/*
dial goes through the daemon: its LocalAPI answers "101 Switching Protocols", and the
connection to it then is the one to the peer. Tailscale's client can do that, but hands out
a reader with a buffer and no descriptor to wait on; so this one request is made here.
*/
func (s *Backend) Dial(ctx context.Context, addr config.Address) (*bridge.Dialed, error) {
	l, err := s.joined()
	if err != nil {
		return nil, err
	}
	running, done, err := l.WhileRunning(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	ip, err := l.Resolve(running, addr.Host)
	direct := s.cfg.AllowHostNetwork && fault.Is(err, fault.Name)
	if err == nil {
		remote := netip.AddrPortFrom(ip, addr.Port)
		if l.tun {
			var routed bool
			if routed, err = l.Routes(running, ip); err == nil && routed {
				return session.DialKernel(running, l.Session, addr, remote.String())
			}
			direct = err == nil
		} else {
			var far bridge.Far
			if far, direct, err = l.dialServed(running, remote); err == nil && !direct {
				return &bridge.Dialed{Local: netip.AddrPortFrom(l.OwnIP(ip), 0), Remote: remote, Far: far}, nil
			}
		}
	}
	switch {
	case direct && s.cfg.AllowHostNetwork:
		return session.DialKernel(ctx, l.Session, addr, addr.String())
	case direct:
		return nil, l.NoRoute(ctx, addr, ip)
	}
	return nil, l.DialError(ctx, addr, err)
}

// dialServed asks the daemon. direct says that the address is none of the tailnet's.
func (l *life) dialServed(ctx context.Context, to netip.AddrPort) (_ bridge.Far, direct bool, err error) {
	c, err := session.DialDaemon(ctx, l.Local)
	if err != nil {
		return nil, false, l.Failed(ctx, "dial", err)
	}
	gone := l.gone(daemonOf(c))
	stop := context.AfterFunc(ctx, func() { c.Close() })
	far, direct, err := l.upgrade(c, to, gone)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil || direct {
		c.Close()
		return nil, direct, err
	}
	return far, false, nil
}

// upgrade makes a connection to the LocalAPI one to a peer, as local.Client.UserDial does.
func (l *life) upgrade(c net.Conn, to netip.AddrPort, gone func() bool) (_ bridge.Far, direct bool, err error) {
	host, ok := c.(bridge.HostConn)
	if !ok {
		return nil, false, fault.New(fault.Internal, "no way to carry a %T", c)
	}
	req, err := http.NewRequest("POST", "http://"+apitype.LocalAPIHost+"/localapi/v0/dial", nil)
	if err != nil {
		return nil, false, err
	}
	for name, value := range map[string]string{"Upgrade": "ts-dial", "Connection": "upgrade", "Dial-Network": "tcp",
		"Dial-Host": to.Addr().String(), "Dial-Port": strconv.Itoa(int(to.Port())),
		"Tailscale-Cap": strconv.Itoa(int(tailcfg.CurrentCapabilityVersion))} {
		req.Header.Set(name, value)
	}
	if _, token, err := safesocket.LocalTCPPortAndToken(); err == nil { // macOS, the app
		req.SetBasicAuth("", token)
	}
	if err := req.Write(c); err != nil {
		return nil, false, err
	}
	r := bufio.NewReaderSize(c, 1024)
	res, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, false, err
	}
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		early, _ := r.Peek(r.Buffered()) // the peer may have spoken already
		return bridge.Through(host, gone, early...), false, nil
	case res.Header.Get("Dial-Self") == "true":
		return nil, true, nil
	}
	text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<12))
	// "dial failure: connect tcp 100.64.0.7:80: connection was refused": the rest is said already.
	cause := strings.TrimSpace(string(text))
	if i := strings.LastIndex(cause, ": "); i >= 0 {
		cause = cause[i+2:]
	}
	return nil, false, errors.New(cause)
}
