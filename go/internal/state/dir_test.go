package state

import (
	"os"
	"path/filepath"
	"testing"
)

// TestAHeldDirectoryThatWasReplaced: what is locked must be what the path leads to, or a second
// node could come up on the other one.
func TestAHeldDirectoryThatWasReplaced(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	for name, replace := range map[string]func() error{
		"the lock file removed":  func() error { return os.Remove(filepath.Join(dir, lockName)) },
		"the lock file replaced": func() error { return os.Rename(filepath.Join(dir, "other"), filepath.Join(dir, lockName)) },
		"the directory moved":    func() error { return os.Rename(dir, dir+"-moved") },
	} {
		os.RemoveAll(dir)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		os.WriteFile(filepath.Join(dir, "other"), nil, 0o600)
		h, err := lockState(dir)
		if err != nil {
			t.Fatal(err)
		}
		if !h.current(dir) {
			t.Errorf("%s: it does not hold what it has locked", name)
		}
		if err := replace(); err != nil {
			t.Fatal(err)
		}
		if h.current(dir) {
			t.Errorf("%s: it takes what it has locked for what is there", name)
		}
		h.Release()
	}
}
