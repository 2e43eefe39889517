package session

import (
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"tailscale.com/health"
	"tailscale.com/ipn"

	"tailnet/internal/bridge"
	"tailnet/internal/config"
	"tailnet/internal/fault"
)

func ptr[T any](v T) *T { return &v }

func loginState(text string) *health.State {
	code := health.LoginStateWarnable.Code
	return &health.State{Warnings: map[health.WarnableCode]health.UnhealthyState{
		code: {WarnableCode: code, Args: health.Args{health.ArgError: text}}}}
}

// TestEveryRowDecides goes through the table in classify.go.
func TestEveryRowDecides(t *testing.T) {
	cfg := &config.Config{Hostname: "api", ControlURL: "http://control.test"}
	const url = "http://control.test/auth/1"
	for _, row := range []struct {
		name       string
		notes      []ipn.Notify
		waiting    bool
		known      string
		code       fault.Code // OK: goes on
		retryAfter float64
		running    bool
	}{
		{name: "a moment of NeedsLogin", notes: []ipn.Notify{{State: ptr(ipn.NeedsLogin)}}},
		{name: "a moment of NeedsMachineAuth", notes: []ipn.Notify{{State: ptr(ipn.NeedsMachineAuth)}}},
		{name: "running", notes: []ipn.Notify{{State: ptr(ipn.Starting)}, {State: ptr(ipn.Running)}}, running: true},
		{name: "bad key", notes: []ipn.Notify{{ErrMessage: ptr("invalid authkey")}}, code: fault.Auth},
		{name: "bad key, in health first", notes: []ipn.Notify{{Health: loginState("invalid authkey")}}, code: fault.Auth},
		{name: "rate limited, in health first", notes: []ipn.Notify{{Health: loginState("rate limited: slow down (retry after 7s)")}}, code: fault.Connect, retryAfter: 7},
		{name: "headscale's bad key", notes: []ipn.Notify{{Health: loginState("register request: http 401: nope")}}, code: fault.Auth},
		{name: "headscale's revoked key", notes: []ipn.Notify{{Health: loginState("register request: http 403: forbidden")}}, code: fault.Auth},
		{name: "headscale's bad request", notes: []ipn.Notify{{Health: loginState("register request: http 400: bad")}}, code: fault.Auth},
		{name: "register 403, while a person is awaited", notes: []ipn.Notify{{Health: loginState("register request: http 403: forbidden")}}, waiting: true, code: fault.Auth},
		{name: "register 404", notes: []ipn.Notify{{Health: loginState("register request: http 404: no such page")}}, code: fault.Connect},
		{name: "key endpoint 401", notes: []ipn.Notify{{Health: loginState("fetch control key: 401 Unauthorized")}}, code: fault.Connect},
		{name: "register 500", notes: []ipn.Notify{{Health: loginState("register request: http 500: oops")}}, code: fault.Connect},
		{name: "register 408", notes: []ipn.Notify{{Health: loginState("register request: http 408: slow")}}, code: fault.Connect},
		{name: "refused", notes: []ipn.Notify{{Health: loginState(`fetch control key: Get "x": dial tcp 127.0.0.1:9: connect: connection refused`)}}, code: fault.Connect},
		{name: "no descriptor left", notes: []ipn.Notify{{Health: loginState(`fetch control key: Get "x": dial tcp 127.0.0.1:9: socket: too many open files`)}}, code: fault.Resource},
		{name: "rate limited", notes: []ipn.Notify{{ErrMessage: ptr("node registration rate limited; will retry after 7s")}}, code: fault.Connect, retryAfter: 7},
		{name: "exit ordered", notes: []ipn.Notify{{ErrMessage: ptr("exit was ordered, with status 3")}}, code: fault.Auth},
		{name: "logging demanded", notes: []ipn.Notify{{ErrMessage: ptr("tailnet requires logging to be enabled. Remove")}}, code: fault.Unsupported},
		{name: "login", notes: []ipn.Notify{{State: ptr(ipn.NeedsLogin), BrowseToURL: ptr(url)}}, code: fault.LoginRequired},
		{name: "login awaited", notes: []ipn.Notify{{State: ptr(ipn.NeedsLogin), BrowseToURL: ptr(url)}}, waiting: true, known: url},
		{name: "another login", notes: []ipn.Notify{{State: ptr(ipn.NeedsLogin), BrowseToURL: ptr(url + "2")}}, waiting: true, known: url, code: fault.LoginRequired},
		{name: "outage while a person is awaited", notes: []ipn.Notify{{Health: loginState("fetch control key: EOF")}}, waiting: true},
		{name: "healthy again", notes: []ipn.Notify{{Health: loginState("")}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := progress{loginKnown: row.known}
			for _, n := range row.notes {
				p.note(n)
			}
			running, err := p.decide(cfg, row.waiting)
			code := fault.OK
			if err != nil {
				code = err.Code
			}
			if code != row.code || running != row.running {
				t.Errorf("running %v, error %v; want code %d, running %v", running, err, row.code, row.running)
			}
			if err != nil && err.RetryAfter != row.retryAfter {
				t.Errorf("retry after %v; want %v", err.RetryAfter, row.retryAfter)
			}
		})
	}
	if !fellBehind(ipn.Notify{ErrMessage: ptr("IPN bus consumer fell behind; closing watch")}) {
		t.Error("a slow watch is taken for an error")
	}
}

// TestRetryAfter: a server's text gives a delay only where it names one.
func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]float64{
		"7s": 7, "1m30s": 90, "2.5": 2.5, "999999h": 999999 * 3600,
		"NaN": 0, "Inf": 0, "+Inf": 0, "-Inf": 0, "infinity": 0, "1e999": 0, "9999999h": 0,
		"-5": 0, "-5s": 0, "0": 0, "soon": 0, "0x1p-2000": 0,
	} {
		if got := retryAfter("rate limited: slow down (retry after " + text + ")"); got != want {
			t.Errorf("retry after %s: %v; want %v", text, got, want)
		}
	}
}

func TestARateLimitIsAPersonsToRead(t *testing.T) {
	cfg := &config.Config{Hostname: "api", ControlURL: "http://control.test"}
	for said, want := range map[string]string{
		"node registration rate limited; will retry after 8.361970589s": "node registration rate limited; try again in 9 s",
		"rate limited: slow down (retry after 2m)":                      "rate limited: slow down; try again in 120 s",
		"rate limited: slow down (retry after NaN)":                     "rate limited: slow down (retry after NaN); try again later",
	} {
		if err := rateLimited(cfg, said); err.Message != cfg.ControlName()+": "+want {
			t.Errorf("%s: %s", said, err.Message)
		}
	}
}

// TestAStateIsToldOnce: a bus that is taken up again begins with the state.
func TestAStateIsToldOnce(t *testing.T) {
	fd, err := bridge.NewStream(func(s *bridge.Stream) error {
		w := newWatcher(s, nil, nil)
		for _, state := range []ipn.State{ipn.Running, ipn.Running, ipn.NoState, ipn.NoState, ipn.Running} {
			w.note(ipn.Notify{State: &state})
		}
		w.lost()
		w.lost()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "stream")
	defer f.Close()
	told, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	var states []string
	for _, word := range strings.Split(string(told), "\"") {
		if word == "Running" || word == "NoState" {
			states = append(states, word)
		}
	}
	if want := []string{"Running", "NoState", "Running", "NoState"}; !slices.Equal(states, want) {
		t.Errorf("told %v, not %v", states, want)
	}
}
