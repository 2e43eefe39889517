package logs

import (
	"sync"
	"time"
)

// A Flood limits the lines that somebody else can provoke, as many as he likes: so many are logged
// within a time, and at its end how many more there were.
type Flood struct {
	mu   sync.Mutex
	seen int // in the time that runs; 0 is that none does
}

const (
	floodLines = 100
	floodTime  = 10 * time.Second
)

// Log writes a line, or counts it.
func (f *Flood) Log(logf func(string, ...any), format string, args ...any) {
	f.mu.Lock()
	f.seen++
	seen := f.seen
	f.mu.Unlock()
	if seen == 1 {
		time.AfterFunc(floodTime, func() {
			f.mu.Lock()
			more := f.seen - floodLines
			f.seen = 0
			f.mu.Unlock()
			if more > 0 {
				logf("%d more such lines within %v were left out, such as: "+format, append([]any{more, floodTime}, args...)...)
			}
		})
	}
	if seen <= floodLines {
		logf(format, args...)
	}
}
