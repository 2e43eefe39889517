package session

import (
	"math"
	"testing"

	"tailscale.com/ipn"

	"tailnet/internal/config"
	"tailnet/internal/fault"
)

// `go test` runs the seeds and what is in testdata/fuzz; `go test -fuzz NAME` looks for more.

// FuzzWhatControlSays: whatever a control server writes into its answers, an attempt to join ends
// in an error of the table, or goes on; a delay it names is a number of seconds.
func FuzzWhatControlSays(f *testing.F) {
	for _, said := range []string{
		"", "invalid key", "rate limited; retry after NaN", "rate limited (retry after Inf)", "retry after 999999h",
		"rate limited: retry after -5s", "rate limited; retry after 1e400", "key hex has the wrong size\nmore",
		"register request: http 403: \x1b[2J", "register request: http 99999999999999999999: x", "requires logging to be enabled",
		"EOF", ": EOF", "fetch control key: \xff", "no space left on device", "register request: http 500: too many open files",
	} {
		f.Add(said, "", byte(ipn.NeedsLogin), false)
		f.Add("", said, byte(ipn.NeedsLogin), true)
		f.Add(said, said, byte(ipn.Starting), false)
	}
	f.Fuzz(func(t *testing.T, message, health string, state byte, waits bool) {
		cfg := &config.Config{Hostname: "api", ControlURL: "http://control.test", AuthKey: "k"}
		var p progress
		s := ipn.State(state % 7)
		p.note(ipn.Notify{State: &s, ErrMessage: &message, Health: loginState(health)})
		running, err := p.decide(cfg, waits)
		if running != (s == ipn.Running) {
			t.Fatalf("running %v in state %v", running, s)
		}
		if err == nil {
			return
		}
		switch err.Code {
		case fault.Auth, fault.Connect, fault.Unsupported, fault.Resource, fault.LoginRequired:
		default:
			t.Fatalf("code %d: %s", err.Code, err.Message)
		}
		if math.IsNaN(err.RetryAfter) || math.IsInf(err.RetryAfter, 0) || err.RetryAfter < 0 {
			t.Fatalf("retry after %v: %s", err.RetryAfter, err.Message)
		}
	})
}
