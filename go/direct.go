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
)

// The other side of direct.c.

func init() {
	bridge.Memory = (*bridge.Shared)(unsafe.Pointer(&C.tailnet_shared))
	from, to, err := os.Pipe()
	if err != nil {
		bridge.Logf("no pipe for dials: %v", err)
		return
	}
	requests = to
	unix.SetNonblock(int(to.Fd()), false) // it is emptied all the time
	C.tailnet_begin_direct(C.int(to.Fd()))
	bridge.Go(func() { serve(from) })
}

var requests *os.File // or the collector would close it

var _ = [1]struct{}{}[unsafe.Sizeof(bridge.Shared{})-C.sizeof_struct_tailnet_shared]

func serve(requests io.Reader) {
	var r C.struct_tailnet_request
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	for {
		if _, err := io.ReadFull(requests, raw); err != nil {
			bridge.Logf("dials have ended: %v", err)
			return
		}
		address := C.GoString(r.address)
		C.free(unsafe.Pointer(r.address))
		end, err := bridge.TakeEnd(int(r.fd))
		if err != nil {
			bridge.Logf("a dial is lost: %v", err)
			continue
		}
		if _, err := guarded(func() (any, error) { return nil, dial(uint64(r.node), address, end) }); err != nil {
			end.Refuse(err)
		}
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
