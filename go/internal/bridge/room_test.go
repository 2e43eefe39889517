package bridge

import (
	"io"
	"testing"
	"time"
)

func TestRoomGrowsWhilePythonReads(t *testing.T) {
	eachKind(t, func(t *testing.T, dialed dialing) {
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
		eventually(t, "what was taken is given back", func() bool { return roomTaken.Load() == 0 })
	})
}

func TestRoomHasALimit(t *testing.T) {
	most := roomLimit.Load()
	if !TakeRoom(most) {
		t.Fatal("there is less than the limit")
	}
	defer GiveRoom(most)
	if TakeRoom(1) {
		t.Error("there is more than the limit")
	}
	var s Conns // and a connection that cannot grow goes on
	python, peer, _ := dialedTLS(t, &s)
	go func() { peer.Write(random(4 << 20)); peer.CloseWrite() }()
	if n, err := io.Copy(io.Discard, python); n != 4<<20 || err != nil {
		t.Error(n, err)
	}
}
