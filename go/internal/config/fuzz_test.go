package config

import (
	"testing"

	"tailnet/internal/fault"
)

// FuzzAddress: an address of any form is one that spells itself again, or an error of the caller's.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{"", ":", ":80", "a:80", "[fd7a::1]:80", "a:65536", "a:-1", "[::1%\x1b]:1", "a:0x50", "\xff:1", "a:b:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			if fault.Of(err).Code != fault.Config {
				t.Fatalf("%v", err)
			}
			return
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a {
			t.Fatalf("%q is %v, which is %v, %v", s, a, again, err)
		}
	})
}
