package bridge

import (
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// hangUp is the event of a peer that has ended its side, and ours is ended as well.
const hangUp = unix.POLLHUP

// optionNames lacks UserTimeout, which macOS does not have.
var optionNames = map[Option]optionName{
	KeepAlive:    {unix.SOL_SOCKET, unix.SO_KEEPALIVE},
	KeepIdle:     {unix.IPPROTO_TCP, unix.TCP_KEEPALIVE},
	KeepInterval: {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL},
	KeepCount:    {unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
}

func nonblocking(fds ...int) {
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		unix.SetNonblock(fd, true)
	}
}

func socketpair() ([2]int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		nonblocking(fds[:]...)
	}
	return fds, err
}

func socket() (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		nonblocking(fd)
	}
	return fd, err
}

// bindName: macOS has no abstract names, so the name is a path, gone at once; the
// kernel keeps it for getpeername(2) all the same.
func bindName(fd int, nonce string, id uint64, peer netip.AddrPort, ends Ends) error {
	name := os.TempDir() + "/" + spell("-", nonce, id, peer, ends)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		return err
	}
	return unix.Unlink(name)
}

func openSocketFile(path string) (int, string, error) { return -1, path, nil }
