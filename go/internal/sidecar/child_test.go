package sidecar

import (
	"bufio"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"tailnet/internal/bridge"
	"tailnet/internal/logs"
)

// TestWhatADaemonSaysHasNoSecret: in a log line it is hidden, and in its last words too.
func TestWhatADaemonSaysHasNoSecret(t *testing.T) {
	const own = "a-key-of-any-form"
	l := logs.New("api", "debug", own)
	fd, err := bridge.NewStream(logs.Stream)
	if err != nil {
		t.Fatal(err)
	}
	stream := os.NewFile(uintptr(fd), "log")
	defer stream.Close()
	lines := make(chan string)
	go func() {
		defer close(lines)
		for read := bufio.NewScanner(stream); read.Scan(); {
			lines <- read.Text()
		}
	}()
	k := &child{redact: l.Redact}
	for deadline := time.Now().Add(10 * time.Second); ; { // until somebody listens
		k.said = make(chan struct{})
		k.passOn(io.NopCloser(strings.NewReader("key "+own)), l.At("debug"))
		select {
		case line := <-lines:
			if strings.Contains(line, own) || !strings.Contains(line, "tailscaled: key [secret]") {
				t.Errorf("%q", line)
			}
			if words := k.lastWords(); strings.Contains(words, own) || !strings.Contains(words, "key [secret]") {
				t.Errorf("last words: %q", words)
			}
			return
		case <-time.After(time.Millisecond):
			if time.Now().After(deadline) {
				t.Fatal("no line came")
			}
		}
	}
}
