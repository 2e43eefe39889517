package main

/*
#include "tailnet.h"
*/
import "C"

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"os"
	"runtime"
	"runtime/debug"
	"time"
	"unicode/utf8"
	"unsafe"

	"tailnet/internal/bridge"
	"tailnet/internal/config"
	"tailnet/internal/fault"
	"tailnet/internal/logs"
	"tailnet/internal/node"
	"tailnet/internal/session"
	"tailnet/internal/strict"
	"tailnet/internal/testcontrol"
)

// The contract: //export functions only, each as declared and documented in
// tailnet.h, and what they all share. What they do is in internal/.

// version is the Python package's, set by the linker (build_go.py).
var version = "unknown"

var (
	nodes     bridge.Table[*node.Node]
	listeners bridge.Table[*node.Listener]
	controls  bridge.Table[*testcontrol.Control]
)

func main() {}

func init() {
	// Python's threads need processors as well, and each one that Go has costs wake-ups: it
	// looks for work before it sleeps. Measured on two (docs/performance.md): with one for Go
	// a round trip took 0.75 of the time, and a gigabyte 0.8 of the CPU.
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(1, runtime.GOMAXPROCS(0)/2))
	}
	bridge.LimitMemory()
	log.SetFlags(0)
	log.SetOutput(logs.Std{})
	bridge.Logf = func(format string, args ...any) {
		logs.Write("", "error", fault.New(fault.Internal, format, args...).Message)
	}
}

//export tailnet_versions
func tailnet_versions(answer *C.tailnet_answer) C.int32_t {
	return respond(answer, func() (any, error) {
		tailscale := "unknown"
		if info, ok := debug.ReadBuildInfo(); ok {
			for _, m := range info.Deps {
				if m.Path == "tailscale.com" {
					tailscale = m.Version
				}
			}
		}
		return map[string]string{"tailnet": version, "tailscale": tailscale, "go": runtime.Version()}, nil
	})
}

//export tailnet_stats
func tailnet_stats(answer *C.tailnet_answer) C.int32_t {
	return respond(answer, func() (any, error) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		listening, connections := 0, 0
		nodes.Each(func(n *node.Node) {
			l, c := n.Count()
			listening, connections = listening+l, connections+c
		})
		ours, all := bridge.Goroutines()
		return map[string]any{"goroutines": all, "own_goroutines": ours, "nodes": nodes.Len(),
			"listeners": listening, "connections": connections, "heap_bytes": m.HeapAlloc, "stack_bytes": m.StackInuse}, nil
	})
}

//export tailnet_logs
func tailnet_logs(answer *C.tailnet_answer) C.int32_t {
	return respond(answer, func() (any, error) { return pending(bridge.NewStream(logs.Stream)) })
}

//export tailnet_node_new
func tailnet_node_new(settings C.tailnet_str, handle *C.tailnet_handle, answer *C.tailnet_answer) C.int32_t {
	return respond(answer, func() (any, error) {
		text, err := str("config", settings)
		if err != nil {
			return nil, err
		}
		if handle == nil {
			return nil, fault.New(fault.Argument, "node is NULL")
		}
		c, err := config.Parse([]byte(text))
		if err != nil {
			return nil, err
		}
		n, err := node.New(c)
		if err != nil {
			return nil, err
		}
		*handle = C.tailnet_handle(nodes.Put(n))
		return nil, nil
	})
}

//export tailnet_node_up
func tailnet_node_up(handle C.tailnet_handle, args C.tailnet_str, answer *C.tailnet_answer) C.int32_t {
	return respond(answer, func() (any, error) {
		n, err := nodes.Get(uint64(handle))
		if err != nil {
			return nil, err
		}
		var a session.UpArgs
		if err := document("args", args, &a); err != nil {
			return nil, err
		}
		return replied(func(ctx context.Context) (any, error) { return n.Up(ctx, a) })
	})
}

//export tailnet_node_close
func tailnet_node_close(handle C.tailnet_handle, timeoutMS C.int32_t, answer *C.tailnet_answer) C.int32_t {
	return respond(answer, func() (any, error) {
		n, ok := nodes.Take(uint64(handle))
		if !ok {
			return nil, nil
		}
		done := make(chan bool, 1)
		bridge.Go(func() { done <- n.Close(time.Duration(max(timeoutMS, 0)) * time.Millisecond) })
		answer, err := replied(func(ctx context.Context) (any, error) {
			select {
			case drained := <-done:
				return map[string]bool{"drained": drained}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
		if err != nil { // no descriptor for a reply; it is leaving all the same
			return nil, nil
		}
		return answer, nil
	})
}

//export tailnet_listen
func tailnet_listen(handle C.tailnet_handle, args C.tailnet_str, listener *C.tailnet_handle, answer *C.tailnet_answer) C.int32_t {
	return respond(answer, func() (any, error) {
		n, err := nodes.Get(uint64(handle))
		if err != nil {
			return nil, err
		}
		var a struct {
			Address string `json:"address"`
			Path    string `json:"path"`
			Backlog int    `json:"backlog"`
		}
		if err := document("args", args, &a); err != nil {
			return nil, err
		}
		if listener == nil {
			return nil, fault.New(fault.Argument, "listener is NULL")
		}
		l := n.NewListener()
		h := listeners.Put(l)
		answer, err := replied(func(ctx context.Context) (any, error) {
			if err := l.Begin(ctx, a.Address, a.Path, a.Backlog); err != nil {
				listeners.Take(h)
				return nil, err
			}
			if ctx.Err() != nil { // nobody is left to close it
				listeners.Take(h)
				l.Close()
				return nil, ctx.Err()
			}
			return map[string]any{"ip": l.IP, "port": l.Port, "options": l.Options}, nil
		})
		if err != nil {
			listeners.Take(h)
			return nil, err
		}
		*listener = C.tailnet_handle(h)
		return answer, nil
	})
}

//export tailnet_listener_close
func tailnet_listener_close(handle C.tailnet_handle) C.int32_t {
	return respond(&C.tailnet_answer{}, func() (any, error) {
		if l, ok := listeners.Take(uint64(handle)); ok {
			l.Close()
		}
		return nil, nil
	})
}

//export tailnet_operations
func tailnet_operations(answer *C.tailnet_answer) C.int32_t {
	return respond(answer, func() (any, error) { return describe(), nil })
}

//export tailnet_testcontrol_start
func tailnet_testcontrol_start(settings C.tailnet_str, handle *C.tailnet_handle, answer *C.tailnet_answer) C.int32_t {
	return respond(answer, func() (any, error) {
		text, err := str("config", settings)
		if err != nil {
			return nil, err
		}
		if handle == nil {
			return nil, fault.New(fault.Argument, "control is NULL")
		}
		c, err := testcontrol.Start([]byte(text))
		if err != nil {
			return nil, faultOf(fault.Config, err)
		}
		*handle = C.tailnet_handle(controls.Put(c))
		return replied(func(context.Context) (any, error) { return c.Info(), nil })
	})
}

//export tailnet_testcontrol_do
func tailnet_testcontrol_do(handle C.tailnet_handle, args C.tailnet_str, answer *C.tailnet_answer) C.int32_t {
	return respond(answer, func() (any, error) {
		c, err := controls.Get(uint64(handle))
		if err != nil {
			return nil, err
		}
		text, err := str("args", args)
		if err != nil {
			return nil, err
		}
		return replied(func(ctx context.Context) (any, error) {
			v, err := c.Do(ctx, []byte(text))
			if err != nil {
				return nil, faultOf(fault.Argument, err)
			}
			return v, nil
		})
	})
}

// faultOf gives an error of the offline control server a code, unless it has one.
func faultOf(code fault.Code, err error) error {
	var f *fault.Error
	if errors.As(err, &f) {
		return f
	}
	return fault.For(code, err, "offline control server")
}

// later is the answer of a call whose document comes on a descriptor.
type later int

// replied starts what answers later.
func replied(op func(context.Context) (any, error)) (any, error) { return pending(bridge.Reply(op)) }

func pending(fd int, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return later(fd), nil
}

// respond runs a call and writes its answer: every export goes through here, so no
// panic passes it.
func respond(answer *C.tailnet_answer, call func() (any, error)) (code C.int32_t) {
	if answer == nil {
		return C.TAILNET_E_ARGUMENT
	}
	answer.len, answer.fd = 0, -1
	v, err := guarded(call)
	if fd, ok := v.(later); ok && err == nil {
		answer.fd = C.int32_t(fd)
		return C.TAILNET_PENDING
	}
	if err != nil {
		f := fault.Of(err)
		b, _ := json.Marshal(f)
		write(answer, b)
		return C.int32_t(f.Code)
	}
	if v == nil {
		return C.TAILNET_OK
	}
	b, err := json.Marshal(v)
	if err != nil {
		return C.TAILNET_E_INTERNAL
	}
	if len(b) > int(answer.cap) || answer.buf == nil { // too large: by descriptor, then
		return respond(answer, func() (any, error) {
			return replied(func(context.Context) (any, error) { return json.RawMessage(b), nil })
		})
	}
	write(answer, b)
	return C.TAILNET_OK
}

func guarded(call func() (any, error)) (v any, err error) {
	defer func() {
		if r := recover(); r != nil {
			v, err = nil, bridge.Recovered(r)
		}
	}()
	return call()
}

func write(answer *C.tailnet_answer, b []byte) {
	if answer.buf == nil || answer.cap <= 0 {
		return
	}
	answer.len = C.int32_t(copy(unsafe.Slice((*byte)(unsafe.Pointer(answer.buf)), int(answer.cap)), b))
}

// str copies a string argument.
func str(name string, s C.tailnet_str) (string, error) {
	if s == nil {
		return "", fault.New(fault.Argument, "%s is NULL", name)
	}
	return text(name, C.GoString(s))
}

func text(name, s string) (string, error) {
	if !utf8.ValidString(s) {
		return "", fault.New(fault.Argument, "%s is not UTF-8", name)
	}
	return s, nil
}

// document decodes a JSON argument.
func document(name string, s C.tailnet_str, into any) error {
	text, err := str(name, s)
	if err != nil {
		return err
	}
	return strict.Unmarshal([]byte(text), into)
}

// Each code is the header's: an index other than 0 does not compile.
var _ = [][1]struct{}{
	{fault.OK - C.TAILNET_OK: {}},
	{fault.Pending - C.TAILNET_PENDING: {}},
	{fault.Argument - C.TAILNET_E_ARGUMENT: {}},
	{fault.Internal - C.TAILNET_E_INTERNAL: {}},
	{fault.Handle - C.TAILNET_E_HANDLE: {}},
	{fault.Config - C.TAILNET_E_CONFIG: {}},
	{fault.Auth - C.TAILNET_E_AUTH: {}},
	{fault.LoginRequired - C.TAILNET_E_LOGIN_REQUIRED: {}},
	{fault.ApprovalRequired - C.TAILNET_E_APPROVAL_REQUIRED: {}},
	{fault.Connect - C.TAILNET_E_CONNECT: {}},
	{fault.NotRunning - C.TAILNET_E_NOT_RUNNING: {}},
	{fault.Timeout - C.TAILNET_E_TIMEOUT: {}},
	{fault.Dial - C.TAILNET_E_DIAL: {}},
	{fault.Refused - C.TAILNET_E_REFUSED: {}},
	{fault.Unreachable - C.TAILNET_E_UNREACHABLE: {}},
	{fault.Name - C.TAILNET_E_NAME: {}},
	{fault.AddressInUse - C.TAILNET_E_ADDRESS_IN_USE: {}},
	{fault.AddressNotAvailable - C.TAILNET_E_ADDRESS_NOT_AVAILABLE: {}},
	{fault.StateLocked - C.TAILNET_E_STATE_LOCKED: {}},
	{fault.Unsupported - C.TAILNET_E_UNSUPPORTED: {}},
	{fault.Closed - C.TAILNET_E_CLOSED: {}},
	{fault.NotFound - C.TAILNET_E_NOT_FOUND: {}},
	{fault.Reset - C.TAILNET_E_RESET: {}},
	{fault.Resource - C.TAILNET_E_RESOURCE: {}},
	{bridge.KeepAlive - C.TAILNET_KEEPALIVE: {}},
	{bridge.KeepIdle - C.TAILNET_KEEPIDLE: {}},
	{bridge.KeepInterval - C.TAILNET_KEEPINTVL: {}},
	{bridge.KeepCount - C.TAILNET_KEEPCNT: {}},
	{bridge.UserTimeout - C.TAILNET_USER_TIMEOUT: {}},
}
