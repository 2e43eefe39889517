package sidecar

import (
	"bufio"
	"context"
	"io"
	"strings"
	"time"

	"tailscale.com/client/local"

	"tailnet/internal/session"
)

// removedWords are in the log of a daemon whose node was removed (control/controlclient, direct.go).
const removedWords = "initial fetch failed 404"

// hearLog listens to the daemon's log for as long as the session lasts. The daemon permits that to
// root and its operator; for anybody else a removed node stays Running.
func (l *life) hearLog() {
	for l.Ctx.Err() == nil {
		lines, err := l.Slow.TailDaemonLogs(l.Ctx)
		if local.IsAccessDeniedError(err) {
			return
		}
		if err == nil {
			l.readLog(lines)
		}
		select { // it restarts, perhaps
		case <-l.Ctx.Done():
		case <-time.After(session.LastPause):
		}
	}
}

func (l *life) readLog(log io.Reader) {
	if c, ok := log.(io.Closer); ok {
		defer c.Close()
		defer context.AfterFunc(l.Ctx, func() { c.Close() })()
	}
	for lines := bufio.NewReaderSize(log, 1<<16); ; {
		line, _, err := lines.ReadLine() // of longer lines, a part each
		if err != nil {
			return
		}
		if strings.Contains(string(line), removedWords) {
			l.NoteRemoved(true)
		}
	}
}
