package bridge

import "sync/atomic"

// Shared is what Python may look at without asking Go: direct.c reads it, and reserves its
// memory.
type Shared struct {
	generation atomic.Uint64
	resets     [16384]atomic.Uint64
}

// Memory is this process's. It is C's, where there is a C (direct.go).
var Memory = new(Shared)

// Changed makes every answer outdated that Python may have kept.
func (s *Shared) Changed() { s.generation.Add(1) }

// Fail remembers that a connection was aborted: a unix socket alone would show Python a
// clean EOF, and hide that a transfer was cut off. Only the latest are known; Python asks at
// the EOF, that is at once.
func (s *Shared) Fail(connection uint64) { s.slot(connection).Store(connection) }

// Failed reports whether the connection was aborted.
func (s *Shared) Failed(connection uint64) bool { return s.slot(connection).Load() == connection }

func (s *Shared) slot(connection uint64) *atomic.Uint64 {
	return &s.resets[connection%uint64(len(s.resets))]
}
