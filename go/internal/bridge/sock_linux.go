package bridge

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// hangUp is the event of a peer that has ended its side.
const hangUp = unix.POLLRDHUP

var optionNames = map[Option]optionName{
	KeepAlive:    {unix.SOL_SOCKET, unix.SO_KEEPALIVE},
	KeepIdle:     {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
	KeepInterval: {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL},
	KeepCount:    {unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
	UserTimeout:  {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT},
}

func socketpair() ([2]int, error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
}

func socket() (int, error) {
	return unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
}

// bindName gives fd the abstract name that spells its peer, so that the kernel
// carries the peer's address to whoever calls accept(2) or getpeername(2).
func bindName(fd int, nonce string, id uint64, peer netip.AddrPort, ends Ends) error {
	return unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + spell("/", nonce, id, peer, ends)})
}

// openSocketFile pins the listening socket's file: it can be connected to through
// /proc even when the path is gone. Without /proc the path is used.
func openSocketFile(path string) (fd int, dial string, err error) {
	fd, err = unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, "", err
	}
	dial = fmt.Sprintf("/proc/self/fd/%d", fd)
	if unix.Access(dial, unix.F_OK) != nil {
		dial = path
	}
	return fd, dial, nil
}
