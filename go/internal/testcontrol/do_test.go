package testcontrol

import (
	"testing"

	"tailnet/internal/fault"
)

func TestOperationsKnowTheirArguments(t *testing.T) {
	for name, do := range operations {
		for _, with := range []string{"", "[]", "7", "null", "{", `{"no such": 1}`, "{} {}"} {
			if _, err := do(nil, []byte(with)); !fault.Is(err, fault.Argument) {
				t.Errorf("%s with %s: %v", name, with, err)
			}
		}
	}
}
