//go:build tailnet_coverage

package main

import "C"

import (
	"os"
	"runtime/coverage"
)

// write_coverage adds this process's counters to those of others; the runtime has written
// what they count already.
//
//export write_coverage
func write_coverage() {
	if dir := os.Getenv("GOCOVERDIR"); dir != "" {
		if err := coverage.WriteCountersDir(dir); err != nil {
			os.Stderr.WriteString("no coverage: " + err.Error() + "\n")
		}
	}
}
