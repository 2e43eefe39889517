package bridge

import "sync"

// An Option is one of TCP's that a program may set, numbered as in tailnet.h.
type Option int32

const (
	KeepAlive    Option = iota // 0 or 1
	KeepIdle                   // seconds
	KeepInterval               // seconds
	KeepCount
	UserTimeout // milliseconds

	optionCount
)

// Options are the values of all of them.
type Options [optionCount]int32

// open are the connections that Python has, or will have in a moment.
var open settings

type settings struct {
	mu sync.Mutex
	m  map[uint64]Far
}

func (s *settings) add(connection uint64, far Far) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[uint64]Far{}
	}
	s.m[connection] = far
}

func (s *settings) remove(connection uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, connection)
}

// SetOption sets an option of a connection, if it is still open.
func SetOption(connection uint64, option Option, value int32) {
	open.mu.Lock()
	far := open.m[connection]
	open.mu.Unlock()
	if far != nil {
		far.SetOption(option, value)
	}
}

// inherited are the options that were set of a listener, which its connections begin with.
type inherited struct {
	mu sync.Mutex
	m  map[Option]int32
}

func (i *inherited) put(option Option, value int32) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.m == nil {
		i.m = map[Option]int32{}
	}
	i.m[option] = value
}

func (i *inherited) give(far Far) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for option, value := range i.m {
		far.SetOption(option, value)
	}
}
