package bridge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"
)

// peerConn is the other side of a connection of any kind.
type peerConn struct {
	net.Conn
	tcp *net.TCPConn // under it
}

func (p peerConn) CloseWrite() error {
	return p.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

func (p peerConn) reset() {
	p.tcp.SetLinger(0)
	p.tcp.Close()
}

type dialing func(*testing.T, *Conns) (python *net.UnixConn, peer peerConn, id uint64)

// eachKind runs a test with each kind of Far that carries a connection which ends each way.
func eachKind(t *testing.T, test func(*testing.T, dialing)) {
	for name, dial := range map[string]dialing{
		"netstack": func(t *testing.T, s *Conns) (*net.UnixConn, peerConn, uint64) {
			python, peer, id := dialedAs(t, s, func(c HostConn) Far { return struct{ Far }{Kernel(c)} })
			return python, peerConn{peer, peer}, id
		},
		"kernel": func(t *testing.T, s *Conns) (*net.UnixConn, peerConn, uint64) {
			python, peer, id := dialed(t, s)
			return python, peerConn{peer, peer}, id
		},
		"TLS": dialedTLS,
	} {
		t.Run(name, func(t *testing.T) { test(t, dial) })
	}
}

func dialedTLS(t *testing.T, s *Conns) (*net.UnixConn, peerConn, uint64) {
	t.Helper()
	python, tcp, id := dialedAs(t, s, func(c HostConn) Far {
		return Over(tls.Server(c, &tls.Config{Certificates: certificate(t)}), Kernel(c))
	})
	peer := tls.Client(tcp, &tls.Config{InsecureSkipVerify: true}) // the certificate is of this test
	if err := peer.Handshake(); err != nil {
		t.Fatal(err)
	}
	return python, peerConn{peer, tcp}, id
}

var made = sync.OnceValues(func() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
})

func certificate(t *testing.T) []tls.Certificate {
	t.Helper()
	c, err := made()
	if err != nil {
		t.Fatal(err)
	}
	return []tls.Certificate{c}
}

func TestACloseNotifyIsTheEnd(t *testing.T) {
	var s Conns
	python, peer, id := dialedTLS(t, &s)
	peer.Write([]byte("all"))
	peer.CloseWrite() // a close_notify and no FIN
	if said, err := io.ReadAll(python); string(said) != "all" || err != nil || Memory.Failed(id) {
		t.Fatalf("python read %q, %v, failed %v", said, err, Memory.Failed(id))
	}
	python.Write([]byte("late"))
	python.Close()
	if said, err := io.ReadAll(peer); string(said) != "late" || err != nil {
		t.Errorf("the peer read %q, %v", said, err)
	}
	eventually(t, "the connection is forgotten", func() bool { return s.Len() == 0 })
}

func TestARecordThatIsCutOffIsAReset(t *testing.T) {
	var s Conns
	python, peer, id := dialedTLS(t, &s)
	peer.tcp.Write([]byte{23, 3, 3, 1, 0, 'h', 'a', 'l', 'f'}) // of 256 bytes
	peer.tcp.CloseWrite()
	io.ReadAll(python)
	if !Memory.Failed(id) {
		t.Error("a stream that was cut off looks complete")
	}
}

func TestTwoHundredAtOnce(t *testing.T) {
	var s Conns
	data := random(256 << 10)
	var all sync.WaitGroup
	for range 200 {
		python, peer, _ := dialedTLS(t, &s)
		all.Go(func() { io.Copy(python, python); python.CloseWrite() })
		all.Go(func() { peer.Write(data); peer.CloseWrite() })
		all.Go(func() {
			if got, err := io.ReadAll(peer); string(got) != string(data) || err != nil {
				t.Errorf("%d of %d bytes came back, %v", len(got), len(data), err)
			}
		})
	}
	all.Wait()
	eventually(t, "all are forgotten", func() bool { return s.Len() == 0 })
}

func TestDrainEndsWhatWaitsToRead(t *testing.T) {
	var s Conns
	python, peer, _ := dialedTLS(t, &s)
	python.Write([]byte("last"))
	if !s.Drain(5 * time.Second) {
		t.Error("an idle connection had to be cut off")
	}
	if said, err := io.ReadAll(peer); string(said) != "last" || err != nil {
		t.Errorf("the peer read %q, %v", said, err)
	}
}

func TestAnAbortEndsWhatWaitsToWrite(t *testing.T) {
	var s Conns
	python, peer, id := dialedTLS(t, &s)
	eventually(t, "the peer, who reads nothing, has a full window", func() bool {
		python.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		_, err := python.Write(make([]byte, 1<<20))
		return err != nil
	})
	if s.Drain(50 * time.Millisecond) {
		t.Error("what was not delivered counts as drained")
	}
	eventually(t, "the connection is forgotten", func() bool { return s.Len() == 0 })
	if !Memory.Failed(id) {
		t.Error("the end looks orderly")
	}
	if _, err := io.Copy(io.Discard, peer); err == nil {
		t.Error("the peer sees an orderly end")
	}
}
