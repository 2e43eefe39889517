//go:build race

package bridge

func init() { underRace = true }
