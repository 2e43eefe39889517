package embedded

import (
	"tailscale.com/ipn"

	"tailnet/internal/bridge"
	"tailnet/internal/config"
	"tailnet/internal/session"
)

// awaitExtension goes on with the old node key, if the admin extends it before a person has
// logged the node in. It does so once in the server's life: should the server not let the old
// key in after all, it is the person's turn.
func (s *server) awaitExtension(c *config.Config) {
	if s.awaiting {
		return
	}
	s.awaiting = true
	sys := s.ts.Sys()
	old := session.Expired{
		Keys:       s.keys,
		ControlURL: s.keys.Prefs().ControlURLOrDefault(sys.PolicyClientOrDefault()),
		LogDir:     s.ts.Dir,
		Dialer:     sys.Dialer.Get(),
		Disco:      sys.MagicSock.Get().DiscoPublicKey(),
	}
	bridge.Go(func() {
		if old.AwaitExtension(s.Ctx, c, s.log) {
			s.Local.Start(s.Ctx, ipn.Options{})
		}
	})
}
