package proxied

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"tailnet/internal/fault"
)

func TestPeerOfAUnixSocket(t *testing.T) {
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "l")})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialed, err := net.DialUnix("unix", nil, ln.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer dialed.Close()
	accepted, err := ln.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	for name, c := range map[string]*net.UnixConn{"dialed": dialed, "accepted": accepted} {
		if uid, err := PeerUID(c); uid != uint32(os.Getuid()) || err != nil {
			t.Errorf("%s: %d, %v", name, uid, err)
		}
	}
	dialed.Close()
	if _, err := PeerUID(dialed); err == nil {
		t.Error("a closed socket has a peer")
	}
}

func TestAUnixSocketWithoutAPeer(t *testing.T) {
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "l")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if uid, err := PeerUID(c); !fault.Is(err, fault.Unsupported) {
		t.Errorf("%d, %v", uid, err)
	}
}
