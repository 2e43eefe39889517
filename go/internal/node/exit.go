package node

import (
	"strings"

	"tailscale.com/health"
	"tailscale.com/ipn"

	"tailnet/internal/bridge"
	"tailnet/internal/fault"
)

// exitWords begin the control server's order to exit, in the words of build_patches.py.
const exitWords = "exit was ordered"

var exitWarnable = health.Register(&health.Warnable{
	Code:                "exit-ordered",
	Title:               "The control server ordered an exit",
	Severity:            health.SeverityHigh,
	ImpactsConnectivity: true,
	Text:                func(args health.Args) string { return args[health.ArgError] },
})

func exitOrdered(c *Config, said string) *fault.Error {
	return fault.New(fault.Auth, "%s ordered the program of node %q to exit (%s); the node has left the tailnet instead: ask those who run the server, and make a new Tailnet to join again",
		c.controlName(), c.Hostname, said)
}

// obey ends a running node whose control server has ordered the process to exit. The program goes
// on: from now on every call on the node says why it has ended, and so does its watch.
func (e *embedded) obey(s *server, n ipn.Notify) {
	if n.ErrMessage == nil || !strings.HasPrefix(*n.ErrMessage, exitWords) {
		return
	}
	why := exitOrdered(e.cfg, *n.ErrMessage)
	if !s.ended.CompareAndSwap(nil, why) { // the poll goes on until the node is stopped
		return
	}
	e.log.at("error")("%s", why.Message)
	s.ts.Sys().HealthTracker.Get().SetUnhealthy(exitWarnable, health.Args{health.ArgError: why.Message})
	s.note(ipn.Stopped)
	e.ports.end()
	bridge.Go(func() {
		if _, err := s.local.EditPrefs(s.ctx, &ipn.MaskedPrefs{WantRunningSet: true}); err != nil && s.ctx.Err() == nil {
			e.log.at("error")("cannot stop: %v", err)
		}
	})
}
