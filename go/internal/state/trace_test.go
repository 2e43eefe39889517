package state

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"tailscale.com/ipn"
	"tailscale.com/tailcfg"
	"tailscale.com/types/persist"
)

func TestTraceKnowsAMachineThatHasJoined(t *testing.T) {
	joined := ipn.NewPrefs()
	joined.Persist = &persist.Persist{NodeID: tailcfg.StableNodeID("n1")}
	pending := ipn.NewPrefs()
	pending.Persist = new(persist.Persist)
	for name, row := range map[string]struct {
		state map[string][]byte
		want  bool
	}{
		"nothing":                   {nil, false},
		"a machine key alone":       {map[string][]byte{"_machinekey": []byte("privkey:00")}, false},
		"a profile without a login": {map[string][]byte{"profile-1": ipn.NewPrefs().ToBytes()}, false},
		"a login that is pending":   {map[string][]byte{"profile-1": pending.ToBytes()}, false},
		"no profile":                {map[string][]byte{"other-1": joined.ToBytes()}, false},
		"a damaged profile":         {map[string][]byte{"profile-1": []byte("{")}, false},
		"a node":                    {map[string][]byte{"profile-1": joined.ToBytes()}, true},
		"a node and another one":    {map[string][]byte{"profile-1": joined.ToBytes(), "profile-2": pending.ToBytes()}, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if row.state != nil {
				text, err := json.Marshal(row.state)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, StateFile), text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			trace := Traced(dir)
			trace.Read()
			if trace.Machine != row.want {
				t.Errorf("it says %v", trace.Machine)
			}
		})
	}
}
