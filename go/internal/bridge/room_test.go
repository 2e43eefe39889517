package bridge

import (
	"io"
	"testing"
	"time"
)

// limited leaves all connections so much room for the time of a test.
func limited(t *testing.T, most int64) {
	before := roomLimit.Swap(most)
	t.Cleanup(func() {
		roomLimit.Store(before)
		eventually(t, "what was taken is given back", func() bool { return roomTaken.Load() == 0 })
	})
}

func TestRoomGrowsWhilePythonReads(t *testing.T) {
	eachKind(t, func(t *testing.T, dialed dialing) {
		limited(t, 512<<10) // too little for a beginning beyond the minimum
		var s Conns
		python, peer, _ := dialed(t, &s)
		data := random(16 << 20)
		sent := make(chan struct{})
		go func() { peer.Write(data); peer.CloseWrite(); close(sent) }()
		select {
		case <-sent:
			t.Fatal("there is room for all that nobody reads")
		case <-time.After(200 * time.Millisecond):
		}
		if n := roomTaken.Load(); n != 0 {
			t.Errorf("%d bytes for what nobody reads", n)
		}
		if n, err := io.CopyN(io.Discard, python, 8<<20); n != 8<<20 {
			t.Fatal(n, err)
		}
		if roomTaken.Load() == 0 {
			t.Error("no more room for a Python that reads")
		}
		io.Copy(io.Discard, python)
		python.Close()
		peer.Close()
	})
}

func TestRoomOfAConnection(t *testing.T) {
	const most = 256 << 20
	limited(t, most)
	var rooms [1000]Room
	for i := range rooms {
		n := rooms[i].Begin(1 << 20)
		if i < 30 && n != 1<<20 {
			t.Fatalf("connection %d of few begins with %d bytes", i, n)
		}
		if i > 500 && n != 0 {
			t.Fatalf("connection %d begins with %d bytes", i, n)
		}
	}
	if n := roomTaken.Load(); n > most/4 {
		t.Errorf("beginnings took %d bytes", n)
	}
	reader := &rooms[999]
	if !reader.Take(most / 2) {
		t.Error("nothing is left for one that is read")
	}
	if reader.Take(most / 2) {
		t.Error("there is more than the limit")
	}
	reader.Give(most / 4)
	if !reader.Take(most / 4) {
		t.Error("what was given back cannot be taken")
	}
	for i := range rooms {
		rooms[i].End()
	}
	if reader.Take(1) {
		t.Error("an ended connection takes")
	}
	reader.Give(1)
}

func TestAConnectionThatCannotGrowGoesOn(t *testing.T) {
	limited(t, 0)
	var s Conns
	python, peer, _ := dialedTLS(t, &s)
	go func() { peer.Write(random(4 << 20)); peer.CloseWrite() }()
	if n, err := io.Copy(io.Discard, python); n != 4<<20 || err != nil {
		t.Error(n, err)
	}
	python.Close()
	peer.Close()
}
