package config

import (
	"golang.org/x/sys/unix"

	"tailnet/internal/fault"
)

// families are the sockets that a node cannot do without. IPv6 is not among them: magicsock
// goes on without it.
var families = []struct {
	name         string
	family, kind int
	purpose      string
}{
	{"AF_UNIX", unix.AF_UNIX, unix.SOCK_STREAM, "to hand connections to Python"},
	{"AF_INET", unix.AF_INET, unix.SOCK_DGRAM, "to reach its peers"},
	{"AF_NETLINK", unix.AF_NETLINK, unix.SOCK_RAW, "to see the network interfaces of this machine"},
}

// CheckFamilies names the address family that a seccomp filter (systemd's
// RestrictAddressFamilies, a container's profile) denies to this process. tsnet reports only
// the system call that failed.
func CheckFamilies() error {
	for _, f := range families {
		fd, err := unix.Socket(f.family, f.kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			e := fault.For(fault.Unsupported, err, "this process may not open an %s socket, which a node needs %s", f.name, f.purpose)
			if e.Code == fault.Unsupported {
				e.Message += "; allow it: in a systemd unit, RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK; in a container, its seccomp profile"
			}
			return e
		}
		unix.Close(fd)
	}
	return nil
}
