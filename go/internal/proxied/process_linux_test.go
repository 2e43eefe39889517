package proxied

import (
	"net"
	"os"
	"os/exec"
	"testing"
)

func TestAProcessIsSeenToEnd(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := Process{pid: int32(cmd.Process.Pid)}
	ending, began := p.look()
	if ending || began == "" {
		t.Fatalf("it ends (%v), began %q", ending, began)
	}
	p.began = began
	if p.Ending() {
		t.Error("it ends while it runs")
	}
	if (Process{pid: p.pid, began: "1"}).Ending() == false {
		t.Error("another process of that number is taken for it")
	}
	cmd.Process.Kill()
	cmd.Wait()
	if !p.Ending() {
		t.Error("it runs after its end")
	}
	if (Process{}).Ending() {
		t.Error("one that cannot be seen ends")
	}
}

func TestTheProcessThatListens(t *testing.T) {
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: t.TempDir() + "/l"})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.DialUnix("unix", nil, ln.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if p := PeerProcess(c); p.began == "" || p.Ending() {
		t.Errorf("%+v, which is this process, ends: %v", p, p.Ending())
	}
}

func BenchmarkEnding(b *testing.B) {
	p := Process{pid: int32(os.Getpid())}
	_, p.began = p.look()
	for b.Loop() {
		if p.Ending() {
			b.Fatal("it ends")
		}
	}
}
