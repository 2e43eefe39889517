package embedded

import (
	"tailscale.com/feature/taildrop"
	"tailscale.com/ipn/ipnext"
)

// receives says which nodes take files from others (Taildrop): those whose program has asked
// for them, which none can yet.
func receives(ipnext.SafeBackend) bool { return false }

func init() { taildrop.Receives = receives }
