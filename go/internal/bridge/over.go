package bridge

import (
	"errors"
	"io"
	"net"
	"os"
	"time"
)

/*
Over carries any connection whose Read waits, a tls.Conn say, over the Far under it. What is
under it knows how the connection can end, whether the peer has everything, and how to reset it.

While idle it holds a goroutine that waits in Read, and the idleRead bytes that this reads into.
*/
func Over(c net.Conn, under Far) Far { return &over{Conn: c, under: under} }

// idleRead is how much an idle connection reads at once. Where that was filled there is more,
// and the pump reads that into its own buffer.
const idleRead = 2 << 10

type over struct {
	net.Conn
	under Far

	idle   [idleRead]byte
	early  []byte // of idle: what the pump has not taken yet
	filled bool   // by the last read
	end    error  // what the last read returned
}

// Read returns what Await has read. It waits only where more is to be expected at once.
func (o *over) Read(b []byte) (n int, err error) {
	switch {
	case len(o.early) > 0:
		n = copy(b, o.early)
		o.early = o.early[n:]
		return n, nil
	case o.end != nil:
		return 0, o.end
	case o.filled:
		return o.read(b)
	}
	return 0, ErrNothing
}

// Await's goroutine and the pump take turns: each touches the fields only when the other has
// called it.
func (o *over) Await(f func()) {
	Quickly(func() {
		n, _ := o.read(o.idle[:])
		o.early = o.idle[:n]
		f()
	})
}

func (o *over) read(b []byte) (n int, err error) {
	n, o.end = o.Conn.Read(b)
	o.filled = n == len(b)
	if errors.Is(o.end, os.ErrDeadlineExceeded) { // by wake: the end of the connection is known
		o.end = io.EOF
	}
	return n, o.end
}

// CloseWrite ends the stream, then the direction that carried it.
func (o *over) CloseWrite() error {
	if c, ok := o.Conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite() // a close_notify; it fails where the connection has
	}
	return o.under.CloseWrite()
}

// Widen: what is read from under it widens that.
func (o *over) Widen(int) {}

func (o *over) Ends() Ends                           { return o.under.Ends() }
func (o *over) Options() *Options                    { return o.under.Options() }
func (o *over) SetOption(option Option, value int32) { o.under.SetOption(option, value) }
func (o *over) Delivered() bool                      { return o.under.Delivered() }

func (o *over) Close() error {
	o.wake()
	o.Conn.Close()
	return o.under.Close()
}

func (o *over) Abort() {
	o.under.Abort() // first, or the stream's own end would go out
	o.wake()
	o.Conn.Close()
}

// wake ends a Read and a Write that wait.
func (o *over) wake() { o.Conn.SetDeadline(time.Unix(1, 0)) }
