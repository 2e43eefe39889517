package config

import (
	"os"
	"testing"

	"tailnet/internal/fault"
)

func TestConfigBounds(t *testing.T) {
	for connectTimeout, good := range map[string]bool{"0": false, "-1": false, "0.001": true, "86400": true, "86400.5": false} {
		doc := `{"hostname": "api", "backend": "embedded", "ephemeral": true, "connect_timeout": ` + connectTimeout + `}`
		if _, err := Parse([]byte(doc)); (err == nil) != good || err != nil && !fault.Is(err, fault.Config) {
			t.Errorf("connect_timeout %s: %v", connectTimeout, err)
		}
	}
}

func TestChildProcessesKeepTheirEnvironment(t *testing.T) {
	t.Setenv("TS_AUTHKEY", "k")
	p := Process{Env: map[string]string{"TS_DEBUG_NETCHECK": "1"}}
	if err := p.Fix(); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("TS_AUTHKEY") != "" || os.Getenv("TS_DEBUG_NETCHECK") != "1" {
		t.Error("Go does not see the environment it was given")
	}
	if cgetenv("TS_AUTHKEY") != "k" || cgetenv("TS_DEBUG_NETCHECK") != "" {
		t.Error("C, and so child processes, see Go's changes")
	}
	if err := p.Fix(); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if err := (Process{LogUpload: true, Env: p.Env}).Fix(); !fault.Is(err, fault.Config) {
		t.Errorf("another log_upload: %v", err)
	}
	if err := (Process{}).Fix(); !fault.Is(err, fault.Config) {
		t.Errorf("another environment: %v", err)
	}
}
