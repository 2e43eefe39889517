package state

import (
	"os"

	"golang.org/x/sys/unix"

	"tailnet/internal/fault"
)

// longestScratch leaves room for the socket in a sockaddr_un, which has 104 bytes on macOS.
const longestScratch = 80

// MakeScratch makes a temporary directory that is known to be in use as long as it is
// locked (src/tailnet/_engine/scratch.py).
func MakeScratch(node string) (dir string, lock Lock, err error) {
	where := os.TempDir()
	if len(where)+len("/tailnet-scratch-0123456789") > longestScratch {
		where = "/tmp"
	}
	if dir, err = os.MkdirTemp(where, "tailnet-scratch-"); err == nil {
		var f *os.File
		if f, err = os.Open(dir); err == nil {
			lock = Lock{f}
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		}
	}
	if err != nil {
		return dir, lock, fault.For(fault.Config, err, "no temporary directory for node %q", node)
	}
	return dir, lock, nil
}
