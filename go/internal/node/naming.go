package node

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tailscale.com/ipn"

	"tailnet/internal/fault"
)

/*
Control may give a node another name than it asked for: another machine has that, or an admin has
renamed this one. The log says so; where require_hostname is set, joining fails, and nothing is
left of it: no machine that we have just registered, and in the state directory what was there.
*/

// logoutLimit: control answers at once, or cannot be reached.
const logoutLimit = 3 * time.Second

// A trace knows what there was of a node before it joined.
type trace struct {
	dir     string          // the state directory; "" for one in memory
	highest string          // of the directories that were not there, down to dir; "" where dir was
	inside  map[string]bool // what was in it
	state   []byte          // what the file of the state held; nil where there was none
	machine bool            // it held a machine that has joined
	undoing bool
}

// traced looks at a state directory, before it is made.
func traced(dir string) *trace {
	t := &trace{dir: dir, inside: map[string]bool{}}
	if dir == "" {
		return t
	}
	entries, err := os.ReadDir(dir)
	for _, each := range entries {
		t.inside[each.Name()] = true
	}
	for at := dir; err != nil; at = filepath.Dir(at) {
		if _, err = os.Lstat(at); err != nil {
			t.highest = at
		}
	}
	return t
}

// read takes in the state, once it is known to be a regular file.
func (t *trace) read() {
	if t.dir == "" {
		return
	}
	t.state, _ = os.ReadFile(t.file())
	var entries map[string][]byte
	json.Unmarshal(t.state, &entries)
	for name, value := range entries {
		prefs := ipn.NewPrefs()
		if strings.HasPrefix(name, "profile-") && ipn.PrefsFromBytes(value, prefs) == nil && prefs.Persist != nil {
			t.machine = t.machine || prefs.Persist.NodeID != ""
		}
	}
}

func (t *trace) file() string { return filepath.Join(t.dir, "tailscaled.state") }

// undo takes away what came after t, where that was asked for. The node has ended.
func (t *trace) undo() {
	if t == nil || !t.undoing || t.dir == "" {
		return
	}
	entries, _ := os.ReadDir(t.dir)
	for _, each := range entries {
		if !t.inside[each.Name()] {
			os.RemoveAll(filepath.Join(t.dir, each.Name()))
		}
	}
	if t.state != nil {
		os.WriteFile(t.file(), t.state, 0o600)
	}
	for at := t.dir; len(at) >= len(t.highest) && t.highest != ""; at = filepath.Dir(at) {
		if os.Remove(at) != nil {
			return
		}
	}
}

// named compares the name that control has given with the one that was asked for. known is
// whether the machine has joined before. Where undo is true, nothing of the node may stay.
func (s *session) named(ctx context.Context, c *Config, id *Identity, known bool, log *logger) (undo bool, _ error) {
	if strings.EqualFold(id.Hostname, c.Hostname) {
		return false, nil
	}
	said := fmt.Sprintf("the tailnet calls this node %q and not %q, because %s", id.Hostname, c.Hostname, s.whoHas(ctx, c.Hostname))
	if !c.RequireHostname {
		log.at("warning")("%s", said)
		return false, nil
	}
	if known {
		return false, fault.New(fault.Config, "hostname: %s; require_hostname=True, so it has not joined, and the machine it was before stays; "+
			"give another hostname, or rename the other machine", said)
	}
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutLimit)
	defer cancel()
	if err := s.local.Logout(within); err != nil {
		log.at("warning")("cannot log %q out, so the tailnet keeps the machine until an admin removes it: %v", id.Hostname, err)
	}
	return true, fault.New(fault.Config, "hostname: %s; require_hostname=True, so it has logged out again, and nothing of it is kept; "+
		"give another hostname, or remove or rename the other machine", said)
}

// whoHas says why a name cannot be had, as far as this node can see.
func (s *session) whoHas(ctx context.Context, name string) string {
	if st, err := s.local.Status(ctx); err == nil {
		for _, p := range st.Peer {
			if label, _, _ := strings.Cut(p.DNSName, "."); strings.EqualFold(label, name) && len(p.TailscaleIPs) > 0 {
				return fmt.Sprintf("another machine has that name (%v)", p.TailscaleIPs[0])
			}
		}
	}
	return "another machine has that name, or an admin has renamed this one"
}
