package state

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"tailscale.com/ipn"
)

// A Trace knows what there was of a node before it joined.
type Trace struct {
	dir     string          // the state directory; "" for one in memory
	highest string          // of the directories that were not there, down to dir; "" where dir was
	inside  map[string]bool // what was in it
	state   []byte          // what the file of the state held; nil where there was none
	Machine bool            // it held a machine that has joined
	Undoing bool
}

// Traced looks at a state directory, before it is made.
func Traced(dir string) *Trace {
	t := &Trace{dir: dir, inside: map[string]bool{}}
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

// Read takes in the state, once it is known to be a regular file.
func (t *Trace) Read() {
	if t.dir == "" {
		return
	}
	t.state, _ = os.ReadFile(t.file())
	var entries map[string][]byte
	json.Unmarshal(t.state, &entries)
	for name, value := range entries {
		prefs := ipn.NewPrefs()
		if strings.HasPrefix(name, "profile-") && ipn.PrefsFromBytes(value, prefs) == nil && prefs.Persist != nil {
			t.Machine = t.Machine || prefs.Persist.NodeID != ""
		}
	}
}

func (t *Trace) file() string { return filepath.Join(t.dir, "tailscaled.state") }

// Undo takes away what came after t, where that was asked for. The node has ended.
func (t *Trace) Undo() {
	if t == nil || !t.Undoing || t.dir == "" {
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
