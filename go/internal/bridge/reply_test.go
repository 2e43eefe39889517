package bridge

import (
	"context"
	"encoding/json"
	"io"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"tailnet/internal/fault"
)

func TestReplyCarriesADocumentOfAnySize(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	fd, err := Reply(func(context.Context) (any, error) { return big, nil })
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(unixConn(t, fd))
	var doc struct{ OK string }
	if err := json.Unmarshal(b, &doc); err != nil || doc.OK != big {
		t.Errorf("the document is not whole: %v", err)
	}
}

func TestClosingAReplyCancelsItsOperation(t *testing.T) {
	cancelled := make(chan struct{})
	fd, err := Reply(func(ctx context.Context) (any, error) {
		<-ctx.Done()
		close(cancelled)
		return nil, ctx.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	unix.Shutdown(fd, unix.SHUT_RDWR)
	unix.Close(fd)
	<-cancelled
}

func TestPanicBecomesAnInternalError(t *testing.T) {
	fd, err := Reply(func(context.Context) (any, error) { panic("boom") })
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(unixConn(t, fd))
	var doc struct{ Error fault.Error }
	if json.Unmarshal(b, &doc); doc.Error.Code != fault.Internal || !strings.Contains(doc.Error.Message, "boom") {
		t.Errorf("got %s", b)
	}
}

func TestSlowReaderLosesLinesAndIsTold(t *testing.T) {
	const sent = 20000
	var resynced atomic.Bool
	filled := make(chan struct{})
	more := make(chan struct{})
	fd, err := NewStream(func(s *Stream) error {
		for i := range sent {
			s.Send(map[string]int{"i": i})
		}
		close(filled)
		<-more
		for !resynced.Load() && s.Context().Err() == nil {
			resynced.Store(s.Send(map[string]string{"snapshot": "new"}))
			runtime.Gosched()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	<-filled // Go never waited for us
	close(more)
	b, err := io.ReadAll(unixConn(t, fd))
	if err != nil {
		t.Fatal(err)
	}
	seen, lost := 0, 0
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		var o struct {
			I    *int
			Lost int
		}
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		if o.I != nil {
			seen++
		}
		lost += o.Lost
	}
	if lost == 0 || seen+lost < sent || !resynced.Load() {
		t.Errorf("seen %d, lost %d of %d, resync %v", seen, lost, sent, resynced.Load())
	}
}

func TestHandlesAreNeverUsedTwice(t *testing.T) {
	var a Table[int]
	var b Table[string]
	h := a.Put(1)
	if _, err := b.Get(h); !fault.Is(err, fault.Handle) {
		t.Errorf("another table's handle: %v", err)
	}
	if _, ok := a.Take(h); !ok {
		t.Error("not there")
	}
	if _, ok := a.Take(h); ok {
		t.Error("there twice")
	}
	if _, err := a.Get(0); !fault.Is(err, fault.Handle) {
		t.Errorf("zero: %v", err)
	}
	if a.Put(2) == h {
		t.Error("a handle came back")
	}
}

func TestMemoryIsGivenBack(t *testing.T) {
	memory.mu.Lock() // that of the other tests' connections is not to be seen here
	defer memory.mu.Unlock()
	var r reclaimer
	r.seen, _ = heap()
	r.collected = r.seen
	runtime.KeepAlive(make([]byte, 2*worth)) // as a load leaves it
	_, loaded := heap()
	r.looking = true
	r.look()
	looking := func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.looking
	}
	if !looking() {
		t.Fatal("it looks no more, right after a load")
	}
	if _, held := heap(); held < loaded {
		t.Fatalf("collected while there was a load")
	}
	r.look()
	if _, held := heap(); looking() || held+worth > loaded {
		t.Errorf("%d MiB are held when calm, of %d MiB", held>>20, loaded>>20)
	}
	collections := func() uint64 {
		s := []metrics.Sample{{Name: "/gc/cycles/forced:gc-cycles"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	before := collections()
	r.look()
	if now := collections(); now != before {
		t.Errorf("%d collections where there was nothing to collect", now-before)
	}
}
