// Package logs carries every line of the library to whoever reads tailnet_logs, without secrets.
//
// Read logs.go, telling.go (what Tailscale's code says, in words that hold here) and flood.go.
package logs

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"

	"tailnet/internal/bridge"
)

// Levels are the names of the configuration's log_level, from the one that says most.
var Levels = map[string]int{"debug": 0, "info": 1, "warning": 2, "error": 3}

type logLine struct {
	Time    float64 `json:"time"`
	Node    string  `json:"node"`
	Level   string  `json:"level"`
	Message string  `json:"message"`
}

// logHub passes log lines to whoever listens; with nobody there they are gone.
var logHub struct {
	sync.Mutex
	readers map[chan logLine]struct{}
}

// Stream is the stream of tailnet_logs.
func Stream(s *bridge.Stream) error {
	lines := make(chan logLine, 256)
	logHub.Lock()
	if logHub.readers == nil {
		logHub.readers = map[chan logLine]struct{}{}
	}
	logHub.readers[lines] = struct{}{}
	logHub.Unlock()
	defer func() {
		logHub.Lock()
		defer logHub.Unlock()
		delete(logHub.readers, lines)
	}()
	for {
		select {
		case <-s.Context().Done():
			return nil
		case l := <-lines:
			s.Send(l)
		}
	}
}

// secrets matches Tailscale's keys of every kind, and headscale's, wherever a line may carry one.
var secrets = regexp.MustCompile(`(ts|hs)key-[a-z]+-[A-Za-z0-9_-]+|(privkey|nodekey-priv|mkey-priv):[0-9a-f]+`)

// password matches that of a URL, such as a proxy's.
var password = regexp.MustCompile(`(://[^\s/:@"]*:)[^\s/@"]+@`)

// A Logger writes the lines of one node.
type Logger struct {
	node   string
	least  int
	secret []*regexp.Regexp // of this node's configuration: control servers other than Tailscale's have keys of any form
}

// New returns the logger of a node, whose lines have no secret.
func New(node, level string, secret ...string) *Logger {
	l := &Logger{node: node, least: Levels[level]}
	for _, s := range secret {
		if s != "" {
			l.secret = append(l.secret, hider(s))
		}
	}
	return l
}

// wordEdge matches where \b can: beside a letter, a digit or an underscore.
var wordEdge = regexp.MustCompile(`^\w`)

// hider matches a secret: a short one as a word of its own, for it may be a part of ordinary words.
func hider(secret string) *regexp.Regexp {
	pattern := regexp.QuoteMeta(secret)
	if len(secret) < 6 {
		if wordEdge.MatchString(secret[:1]) {
			pattern = `\b` + pattern
		}
		if wordEdge.MatchString(secret[len(secret)-1:]) {
			pattern += `\b`
		}
	}
	return regexp.MustCompile(pattern)
}

// Of returns the logger of the same node under the name that it turned out to have.
func (l *Logger) Of(node string) *Logger {
	other := *l
	other.node = node
	return &other
}

// At returns a printf of that level, for Tailscale's code.
func (l *Logger) At(level string) func(string, ...any) {
	return func(format string, args ...any) {
		if Levels[level] < l.least {
			return
		}
		Write(l.node, level, l.withoutOwn(strings.TrimRight(fmt.Sprintf(format, args...), "\n")))
	}
}

// Redact takes secrets out of text that came from elsewhere.
func (l *Logger) Redact(text string) string { return redact(l.withoutOwn(text)) }

// withoutOwn takes out the secrets of this node's configuration, which may be of any form.
func (l *Logger) withoutOwn(text string) string {
	for _, s := range l.secret {
		text = s.ReplaceAllLiteralString(text, "[secret]")
	}
	return text
}

// redact takes out what looks like a secret of anybody's.
func redact(text string) string {
	text = password.ReplaceAllString(text, "${1}[secret]@")
	return secrets.ReplaceAllString(text, "[secret]")
}

// Write writes one line; it never waits. Every line comes through here, also those that belong to
// no node.
func Write(node, level, message string) {
	line := logLine{float64(time.Now().UnixMicro()) / 1e6, node, level, redact(message)}
	logHub.Lock()
	defer logHub.Unlock()
	for r := range logHub.readers {
		select {
		case r <- line:
		default:
		}
	}
}

// Std takes what Tailscale's code writes to Go's standard logger: a library prints
// nothing. Last words are an exception, because nobody will read the log any more.
type Std struct{}

// Write logs one line of Go's own log package.
func (Std) Write(p []byte) (int, error) {
	pcs := make([]uintptr, 16)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for f, more := frames.Next(); more; f, more = frames.Next() {
		if strings.HasPrefix(f.Function, "log.Fatal") || strings.HasPrefix(f.Function, "log.Panic") {
			os.Stderr.WriteString(redact(string(p)))
		}
	}
	tell(strings.TrimSpace(string(p)))
	return len(p), nil
}
