package main

/*
#include <stdlib.h>
#include "direct.h"
*/
import "C"

import (
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"tailnet/internal/bridge"
	"tailnet/internal/fault"
)

// The other side of direct.c.

func init() {
	bridge.Memory = (*bridge.Shared)(unsafe.Pointer(C.tailnet_shared))
	from, to, err := os.Pipe()
	if err != nil {
		bridge.Logf("no pipe for calls: %v", err)
		return
	}
	notes = to
	unix.SetNonblock(int(to.Fd()), false) // it is emptied all the time
	C.tailnet_begin_direct(C.int(to.Fd()))
	bridge.Go(func() { serve(from) })
}

var notes *os.File // or the collector would close it

var _ = [1]struct{}{}[unsafe.Sizeof(bridge.Shared{})-C.sizeof_struct_tailnet_shared]

// serve reads notes. It decodes no JSON itself: the next caller waits behind it.
func serve(from io.Reader) {
	var n C.struct_tailnet_note
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&n)), unsafe.Sizeof(n))
	for {
		if _, err := io.ReadFull(from, raw); err != nil {
			bridge.Logf("calls have ended: %v", err)
			return
		}
		handle := uint64(n.node)
		if n.fd < 0 {
			set(handle, bridge.Option(n.option), int32(n.value))
			continue
		}
		what, args := C.GoString(n.operation), C.GoString(n.args)
		dials := n.operation == nil
		C.free(unsafe.Pointer(n.operation))
		C.free(unsafe.Pointer(n.args))
		var file *os.File
		if n.descriptor >= 0 {
			file = os.NewFile(uintptr(n.descriptor), "sent along")
		}
		end, err := bridge.TakeEnd(int(n.fd))
		if err != nil {
			bridge.Logf("a call is lost: %v", err)
			if file != nil {
				file.Close()
			}
			continue
		}
		if dials {
			refusing(end, func() error { return dial(handle, args, end) })
			continue
		}
		bridge.Quickly(func() { refusing(end, func() error { return ask(handle, what, args, file, end) }) })
	}
}

// set sets an option of what is still there. The reader of notes waits for it, so that options
// are set in the order of the calls.
func set(number uint64, option bridge.Option, value int32) {
	guarded(func() (any, error) {
		if l, err := listeners.Get(number); err == nil {
			l.SetOption(option, value)
		} else {
			bridge.SetOption(number, option, value)
		}
		return nil, nil
	})
}

// refusing answers with what goes wrong before an operation begins.
func refusing(end bridge.End, begin func() error) {
	if _, err := guarded(func() (any, error) { return nil, begin() }); err != nil {
		end.Refuse(err)
	}
}

func dial(handle uint64, address string, end bridge.End) error {
	n, err := nodes.Get(handle)
	if err != nil {
		return err
	}
	if address, err = text("address", address); err != nil {
		return err
	}
	n.Dial(address, end)
	return nil
}

func ask(handle uint64, name, args string, file *os.File, end bridge.End) (err error) {
	defer func() {
		if err != nil && file != nil {
			file.Close()
		}
	}()
	n, err := nodes.Get(handle)
	if err != nil {
		return err
	}
	o, ok := operations[name]
	if !ok {
		return fault.New(fault.Argument, "there is no operation %q", name)
	}
	if args, err = text("args", args); err != nil {
		return err
	}
	o.begin(n, args, file, end)
	return nil
}
