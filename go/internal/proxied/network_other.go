//go:build !linux

package proxied

// SameNetwork cannot be known on this platform, nor can what it is asked for.
func SameNetwork(string) (bool, error) { return false, unknowable() }
