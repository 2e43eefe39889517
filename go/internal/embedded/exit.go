package embedded

import (
	"strings"

	"tailscale.com/health"
	"tailscale.com/ipn"

	"tailnet/internal/bridge"
	"tailnet/internal/session"
)

var exitWarnable = health.Register(&health.Warnable{
	Code:                "exit-ordered",
	Title:               "The control server ordered an exit",
	Severity:            health.SeverityHigh,
	ImpactsConnectivity: true,
	Text:                func(args health.Args) string { return args[health.ArgError] },
})

// obey ends a running node whose control server has ordered the process to exit. The program goes
// on: from now on every call on the node says why it has ended, and so does its watch.
func (e *Backend) obey(s *server, n ipn.Notify) {
	if n.ErrMessage == nil || !strings.HasPrefix(*n.ErrMessage, session.ExitWords) {
		return
	}
	why := session.ExitOrdered(e.cfg, *n.ErrMessage)
	if !s.ended.CompareAndSwap(nil, why) { // the poll goes on until the node is stopped
		return
	}
	e.log.At("error")("%s", why.Message)
	s.ts.Sys().HealthTracker.Get().SetUnhealthy(exitWarnable, health.Args{health.ArgError: why.Message})
	s.Note(ipn.Stopped)
	e.ports.end()
	bridge.Go(func() {
		if _, err := s.Local.EditPrefs(s.Ctx, &ipn.MaskedPrefs{WantRunningSet: true}); err != nil && s.Ctx.Err() == nil {
			e.log.At("error")("cannot stop: %v", err)
		}
	})
}
