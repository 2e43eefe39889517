package embedded

import (
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
	"tailscale.com/envknob"
	"tailscale.com/wgengine/netstack"

	"tailnet/internal/bridge"
	"tailnet/internal/fault"
)

// stackConn is a connection of the netstack.
type stackConn struct {
	*gonet.TCPConn
	ep tcpip.Endpoint

	keeping     keeping
	userTimeout time.Duration // as the program has set it, or 0
	room        bridge.Room   // what of the receive buffer is beyond the minimum
	readable    waiter.Entry
	awaits      atomic.Pointer[func()] // what to call, once
}

/*
This file is the one place that reaches through to unexported fields, by name and with
their types checked; TestReach fails when an upgrade moves them.
*/

// gonet keeps the endpoint to itself, and with it what net.Conn has no word for:
// resetting, keepalive on dialed connections, whether our FIN was acknowledged, and
// reading without a goroutine that waits.
var (
	endpointOffset = offset[gonet.TCPConn, tcpip.Endpoint]("ep")
	queueOffset    = offset[gonet.TCPConn, *waiter.Queue]("wq")
)

// offset returns where a field is, or 0.
func offset[Struct, Field any](name string) uintptr {
	f, ok := reflect.TypeFor[Struct]().FieldByName(name)
	if !ok || f.Type != reflect.TypeFor[Field]() {
		return 0
	}
	return f.Offset
}

func at[Field any](c *gonet.TCPConn, offset uintptr) *Field {
	return (*Field)(unsafe.Add(unsafe.Pointer(c), offset))
}

// newFar takes a connection of the netstack.
func newFar(c net.Conn) (bridge.Far, error) {
	g, ok := c.(*gonet.TCPConn)
	if !ok {
		return nil, fault.New(fault.Internal, "no way to carry a %T", c)
	}
	if endpointOffset == 0 || queueOffset == 0 {
		return nil, fault.New(fault.Internal, "gonet.TCPConn is not as this version knows it")
	}
	s := &stackConn{TCPConn: g, ep: *at[tcpip.Endpoint](g, endpointOffset)}
	s.readable.Init(s, waiter.ReadableEvents)
	(*at[*waiter.Queue](g, queueOffset)).EventRegister(&s.readable)
	s.keeping = defaultKeeping()
	s.keep()
	if n := s.room.Begin(mostFirstWindow - leastWindow); n > 0 {
		s.ep.SocketOptions().SetReceiveBufferSize(leastWindow+n, false) // true would end gVisor's tuning
	}
	return s, nil
}

// A peer that is gone without a word is given up after two minutes, idle or not, on
// dialed and accepted connections alike; gVisor's own defaults are two hours and a
// quarter of one. The environment variables are Tailscale's.
var (
	keepIdle     = envknob.RegisterDuration("TS_NETSTACK_KEEPALIVE_IDLE")
	keepInterval = envknob.RegisterDuration("TS_NETSTACK_KEEPALIVE_INTERVAL")
)

// keeping is how long a connection waits for a silent peer.
type keeping struct {
	alive          bool
	idle, interval time.Duration
	count          int
	userTimeout    time.Duration // for what is not acknowledged
}

func defaultKeeping() keeping {
	k := keeping{true, keepIdle(), keepInterval(), 4, 0}
	if k.idle <= 0 {
		k.idle = time.Minute
	}
	if k.interval <= 0 {
		k.interval = 15 * time.Second
	}
	k.userTimeout = k.idle + time.Duration(k.count)*k.interval
	return k
}

// stackOptions are defaultKeeping for programs; only the variables have fractions of a second.
func stackOptions() *bridge.Options {
	k := defaultKeeping()
	seconds := func(d time.Duration) int32 { return int32((d + time.Second - 1) / time.Second) }
	return &bridge.Options{
		bridge.KeepAlive:    1,
		bridge.KeepIdle:     seconds(k.idle),
		bridge.KeepInterval: seconds(k.interval),
		bridge.KeepCount:    int32(k.count),
		bridge.UserTimeout:  int32(k.userTimeout.Milliseconds()),
	}
}

func (c *stackConn) Options() *bridge.Options { return stackOptions() }

func (c *stackConn) SetOption(option bridge.Option, value int32) {
	k := &c.keeping
	switch option {
	case bridge.KeepAlive:
		k.alive = value != 0
	case bridge.KeepIdle:
		k.idle = time.Duration(value) * time.Second
	case bridge.KeepInterval:
		k.interval = time.Duration(value) * time.Second
	case bridge.KeepCount:
		k.count = int(value)
	case bridge.UserTimeout:
		c.userTimeout = time.Duration(value) * time.Millisecond
	}
	k.userTimeout = c.userTimeout
	if k.userTimeout == 0 { // as in Linux, it would cut the probes short
		k.userTimeout = max(defaultKeeping().userTimeout, k.idle+time.Duration(k.count)*k.interval)
	}
	c.keep()
}

func (c *stackConn) keep() {
	k := c.keeping
	idle, interval := tcpip.KeepaliveIdleOption(k.idle), tcpip.KeepaliveIntervalOption(k.interval)
	userTimeout := tcpip.TCPUserTimeoutOption(k.userTimeout)
	c.ep.SetSockOpt(&idle)
	c.ep.SetSockOpt(&interval)
	c.ep.SetSockOpt(&userTimeout)
	if ep, ok := c.ep.(*tcp.Endpoint); ok {
		// A default must not end a connection to a peer that lives and reads nothing.
		ep.LockUser()
		ep.SpareClosedWindow = c.userTimeout == 0
		ep.UnlockUser()
	}
	c.ep.SetSockOptInt(tcpip.KeepaliveCountOption, k.count)
	c.ep.SocketOptions().SetKeepAlive(k.alive)
}

func (c *stackConn) Read(b []byte) (int, error) {
	w := tcpip.SliceWriter(b)
	read, err := c.ep.Read(&w, tcpip.ReadOptions{})
	switch err.(type) {
	case nil:
		return read.Count, nil
	case *tcpip.ErrWouldBlock:
		return 0, bridge.ErrNothing
	case *tcpip.ErrClosedForReceive:
		if tcp.EndpointState(c.ep.State()) == tcp.StateError { // Write was told the error; it is told once
			return 0, syscall.ECONNRESET
		}
		return 0, io.EOF
	}
	return 0, errors.New(err.String())
}

// Windows, in bytes of netstack's receive buffer.
const (
	leastWindow     = 32 << 10 // tcpRXBufDefSize, as build_patches.py has it
	mostFirstWindow = 1 << 20  // tcpRXBufDefSize, as tailscale has it
	mostWindow      = 8 << 20  // tcpRXBufMaxSize
)

// Widen has gVisor grow the receive window, which it does where much is read within a round trip.
func (c *stackConn) Widen(n int) {
	before := c.ep.SocketOptions().GetReceiveBufferSize()
	step := min(2*before, mostWindow-before) // gVisor may grow it by as much, or a little more
	if step <= 0 || !c.room.Take(step) {
		return
	}
	c.ep.ModerateRecvBuf(n)
	grown := c.ep.SocketOptions().GetReceiveBufferSize() - before
	c.room.Give(step - grown)
}

func (c *stackConn) Await(f func()) {
	c.awaits.Store(&f)
	if c.ep.Readiness(waiter.ReadableEvents) != 0 { // it came before we said that we wait
		c.NotifyEvent(waiter.ReadableEvents)
	}
}

// NotifyEvent is called by the netstack, which holds locks.
func (c *stackConn) NotifyEvent(waiter.EventMask) {
	if f := c.awaits.Swap(nil); f != nil {
		bridge.Quickly(*f)
	}
}

func (c *stackConn) Ends() bridge.Ends { return bridge.EachWay }

func (c *stackConn) Delivered() bool {
	switch tcp.EndpointState(c.ep.State()) {
	case tcp.StateFinWait2, tcp.StateTimeWait, tcp.StateClose, tcp.StateError:
		return true
	}
	return false
}

func (c *stackConn) Close() error {
	c.ep.Close()
	c.room.End()
	c.NotifyEvent(0) // whoever awaits would else wait for a peer that may be silent
	return nil
}

// Abort resets by closing with a linger of zero, as in the kernel.
func (c *stackConn) Abort() {
	c.ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: true})
	c.Close()
}

// packetQueue is the outbound queue of tailscale's netstack.
type packetQueue interface {
	ReadContext(context.Context) *stack.PacketBuffer
}

func outbound(n *netstack.Impl) (packetQueue, bool) {
	f := reflect.ValueOf(n).Elem().FieldByName("linkEP")
	if !f.IsValid() {
		return nil, false
	}
	q, ok := reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem().Interface().(packetQueue)
	return q, ok
}

// inject finds what Impl.Close ends its pump of that queue with, and what it waits on.
func inject(n *netstack.Impl) (*context.CancelFunc, *sync.WaitGroup) {
	return field[context.CancelFunc](n, "ctxCancel"), field[sync.WaitGroup](n, "injectWG")
}

// abandon resets the connections that Python has closed and whose peers have not: with the
// node gone, nobody acknowledges the end of such a peer, and it would wait for that when it
// closes. What we sent has all been acknowledged, our end included, so the peer still reads
// that. It reports whether there was one.
func abandon(n *netstack.Impl) (some bool) {
	ip := field[*stack.Stack](n, "ipstack")
	if ip == nil {
		return false
	}
	for _, e := range (*ip).RegisteredEndpoints() {
		if e, ok := e.(*tcp.Endpoint); ok && e.EndpointState() == tcp.StateFinWait2 {
			e.Abort()
			some = true
		}
	}
	return some
}

func field[T any](n *netstack.Impl, name string) *T {
	f := reflect.ValueOf(n).Elem().FieldByName(name)
	if !f.IsValid() || f.Type() != reflect.TypeFor[T]() {
		return nil
	}
	return (*T)(f.Addr().UnsafePointer())
}

/*
silence takes over the netstack's outbound queue and throws away what comes, until ctx
ends. Impl.Close tells its pump to end, then resets every endpoint left, those in TIME_WAIT
too, although ours have said their FIN. That would go wrong twice:

  - The pump may still pass on some of these resets (its select picks at random), and a
    peer that has not read our FIN yet would see one. So it is ended before.
  - With nobody to empty the queue, Close blocks for good when 512 resets are in it
    (facts-tsnet, section 8).
*/
func silence(ctx context.Context, n *netstack.Impl) {
	if cancel, pump := inject(n); cancel != nil && pump != nil {
		(*cancel)()
		pump.Wait()
	}
	if q, ok := outbound(n); ok {
		bridge.Go(func() {
			for p := q.ReadContext(ctx); p != nil; p = q.ReadContext(ctx) {
				p.DecRef()
			}
		})
	}
}
