package session

import (
	"context"
	"fmt"
	"strings"
	"time"

	"tailnet/internal/config"
	"tailnet/internal/fault"
	"tailnet/internal/logs"
)

/*
Control may give a node another name than it asked for: another machine has that, or an admin has
renamed this one. The log says so; where require_hostname is set, joining fails, and nothing is
left of it: no machine that we have just registered, and in the state directory what was there.
*/

// logoutLimit: control answers at once, or cannot be reached.
const logoutLimit = 3 * time.Second

// Named compares the name that control has given with the one that was asked for. known is
// whether the machine has joined before. Where undo is true, nothing of the node may stay.
func (s *Session) Named(ctx context.Context, c *config.Config, id *Identity, known bool, log *logs.Logger) (undo bool, _ error) {
	if strings.EqualFold(id.Hostname, c.Hostname) {
		return false, nil
	}
	said := fmt.Sprintf("the tailnet calls this node %q and not %q, because %s", id.Hostname, c.Hostname, s.whoHas(ctx, c.Hostname))
	if !c.RequireHostname {
		log.At("warning")("%s", said)
		return false, nil
	}
	if known {
		return false, fault.New(fault.Config, "hostname: %s; require_hostname=True, so it has not joined, and the machine it was before stays; "+
			"give another hostname, or rename the other machine", said)
	}
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutLimit)
	defer cancel()
	if err := s.Local.Logout(within); err != nil {
		log.At("warning")("cannot log %q out, so the tailnet keeps the machine until an admin removes it: %v", id.Hostname, err)
	}
	return true, fault.New(fault.Config, "hostname: %s; require_hostname=True, so it has logged out again, and nothing of it is kept; "+
		"give another hostname, or remove or rename the other machine", said)
}

// whoHas says why a name cannot be had, as far as this node can see.
func (s *Session) whoHas(ctx context.Context, name string) string {
	if st, err := s.Local.Status(ctx); err == nil {
		for _, p := range st.Peer {
			if label, _, _ := strings.Cut(p.DNSName, "."); strings.EqualFold(label, name) && len(p.TailscaleIPs) > 0 {
				return fmt.Sprintf("another machine has that name (%v)", p.TailscaleIPs[0])
			}
		}
	}
	return "another machine has that name, or an admin has renamed this one"
}
