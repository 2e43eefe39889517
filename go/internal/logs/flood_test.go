package logs

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestAFlood: whoever provokes lines fills no log; how many there were is said.
func TestAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Flood
		var lines []string
		logf := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
		for n := range 4000 {
			f.Log(logf, "refused %d", n)
		}
		if len(lines) != floodLines || lines[floodLines-1] != fmt.Sprintf("refused %d", floodLines-1) {
			t.Errorf("%d lines, the last: %q", len(lines), lines[len(lines)-1])
		}
		time.Sleep(floodTime + time.Second)
		synctest.Wait()
		if want := "3900 more such lines within 10s were left out, such as: refused 0"; lines[len(lines)-1] != want {
			t.Errorf("%q, want %q", lines[len(lines)-1], want)
		}
		lines = nil
		f.Log(logf, "refused again")
		time.Sleep(floodTime + time.Second)
		synctest.Wait()
		if len(lines) != 1 || lines[0] != "refused again" {
			t.Errorf("after it: %q", lines)
		}
	})
}
