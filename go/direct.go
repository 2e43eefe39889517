package main

/*
#include <stdlib.h>
#include "direct.h"
*/
import "C"

import (
	"context"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"tailnet/internal/bridge"
)

// The other side of direct.c.

func init() {
	bridge.Memory = (*bridge.Shared)(unsafe.Pointer(C.tailnet_shared))
	from, to, err := os.Pipe()
	if err != nil {
		bridge.Logf("no pipe for calls: %v", err)
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
			bridge.Logf("calls have ended: %v", err)
			return
		}
		text := C.GoString(r.text)
		C.free(unsafe.Pointer(r.text))
		end, err := bridge.TakeEnd(int(r.fd))
		if err != nil {
			bridge.Logf("a call is lost: %v", err)
			continue
		}
		if _, err := guarded(func() (any, error) { return nil, begin(r.question, uint64(r.node), text, end) }); err != nil {
			end.Refuse(err)
		}
	}
}

func begin(question C.int32_t, handle uint64, address string, end bridge.End) error {
	n, err := nodes.Get(handle)
	if err != nil {
		return err
	}
	if address, err = text("address", address); err != nil {
		return err
	}
	switch question {
	case C.TAILNET_DIAL:
		n.Dial(address, end)
	case C.TAILNET_WHOIS:
		end.Reply(func(ctx context.Context) (any, error) { return n.WhoIs(ctx, address) })
	case C.TAILNET_STATUS:
		end.Reply(func(ctx context.Context) (any, error) { return n.Status(ctx) })
	}
	return nil
}
