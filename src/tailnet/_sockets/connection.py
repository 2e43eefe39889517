"""A connection: `TailnetSocket`, a real connected socket whose addresses are those of the tailnet.

Rules of this file:

- The descriptor is an AF_UNIX stream; the library pumps its bytes to and from the tailnet. The
  name of its other end spells the peer, so the kernel carries the peer's address to whoever holds
  the descriptor, in this process or in another.
- What programs do to a TCP socket works, and every address is (ip, port), of IPv6 peers too. The
  options that decide how long to wait for a silent peer act on the tailnet's connection; other
  options of TCP and IP are kept and have no effect.
- A unix socket shows an aborted connection as a plain end. The library remembers how each
  connection ended, and it is asked before an end is believed.

How a connection gets here: listener.py (accepted) and _node/dialing.py (dialed).
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

from .._engine import held, lib
from ..errors import TailnetUnsupported

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Address", "TailnetSocket"]

Address = tuple[str, int]

# Options of these levels would raise EOPNOTSUPP on a unix socket; http.client alone sets
# TCP_NODELAY on every connection.
_TCP_LEVELS = frozenset({socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6})


class _Acting(NamedTuple):
    """An option that acts on the tailnet's connection."""

    option: int  # as go/tailnet.h numbers it
    least: int
    most: int


_KEEPALIVE, _KEEPIDLE, _KEEPINTVL, _KEEPCNT, _USER_TIMEOUT = range(5)
_ANY = 1 << 31
# The ranges are Linux's (include/net/tcp.h); TCP_KEEPALIVE is what macOS calls TCP_KEEPIDLE.
_ACTING = {
    (level, number): acting
    for level, name, acting in (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", _Acting(_KEEPALIVE, -_ANY, _ANY - 1)),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", _Acting(_KEEPIDLE, 1, 32767)),
        (socket.IPPROTO_TCP, "TCP_KEEPALIVE", _Acting(_KEEPIDLE, 1, 32767)),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", _Acting(_KEEPINTVL, 1, 32767)),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", _Acting(_KEEPCNT, 1, 127)),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", _Acting(_USER_TIMEOUT, 0, _ANY - 1)),
    )
    if (number := getattr(socket, name, None)) is not None
}


class PeerName(NamedTuple):
    """What the name of a connection's other end says."""

    connection: int
    address: Address
    whole: bool  # both directions end at once


def parse_address(text: str) -> Address:
    """Parse "ip:port" or "[ip]:port"."""
    host, _, port = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def parse_peer_name(name: object) -> PeerName | None:
    r"""Parse what getpeername(2) says of a connection: b"\0<nonce>/<connection>/<ip:port>".

    A last word "/whole" says that both directions end at once. gunicorn's REMOTE_ADDR has it as
    text. On macOS, which has no such names, it is a path that ends in
    "<nonce>-<connection>-<ip:port>". Returns None for any other name.
    """
    try:
        if isinstance(name, bytes):
            name = name.decode("ascii")
        if not isinstance(name, str):
            return None
        if name.startswith("\0"):
            _, connection, address, *ends = name.split("/")
        else:
            _, connection, address, *ends = name.rpartition("/")[2].split("-")
        return PeerName(int(connection), parse_address(address), ends == ["whole"])
    except ValueError:
        return None


def give_timeout(made: socket.socket, timeout: float | None) -> None:
    """Give a new socket on an open descriptor its timeout.

    Whether a descriptor blocks is shared by all its copies, those of other processes included. A
    new socket has the default timeout already, so it is left alone where that is the one: else the
    copy of a server's worker, which must not block, would block in the middle of its event loop.
    """
    if made.gettimeout() != timeout:
        made.settimeout(timeout)


class TcpLike(socket.socket):
    """A unix socket that programs may treat as one of TCP: what listeners and connections share."""

    __slots__ = ("_acting", "_inet", "_options", "_own", "_usual")

    def __init__(
        self, fileno: int, own: Address, *, inet: bool, usual: Sequence[int] | None
    ) -> None:
        # Type and family are given, or socket.socket would ask the kernel for each.
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno)
        self._own = own
        self._inet = inet
        self._options: dict[tuple[int, int], int] = {}
        self._acting: dict[int, int] = {}  # by the option's number
        held.add(self)
        self._usual = usual  # what those are that were not set; None where they have no effect

    def __del__(self) -> None:
        if self.fileno() >= 0:
            held.dropped(self)
        super().__del__()  # type: ignore[misc] # typeshed lacks it

    @property
    def family(self) -> socket.AddressFamily:
        """AF_UNIX, as the descriptor is; after `as_inet()`, the family of the address."""
        if not self._inet:
            return socket.AF_UNIX
        return socket.AF_INET6 if ":" in self._own[0] else socket.AF_INET

    def getsockname(self) -> Address:
        """Return this end's (ip, port) on the tailnet."""
        super().getsockname()  # for its error: closed
        return self._own

    def setsockopt(self, level: int, optname: int, value: Any, optlen: Any = None) -> None:
        """Set an option.

        SO_KEEPALIVE, TCP_KEEPIDLE (TCP_KEEPALIVE on macOS), TCP_KEEPINTVL, TCP_KEEPCNT and
        TCP_USER_TIMEOUT act on the tailnet's connection, also when a forked child sets them. Until
        TCP_USER_TIMEOUT is set, it is 120 s, or longer where keepalive needs that for all probes.
        A peer that reads nothing is kept for as long as it answers, unless TCP_USER_TIMEOUT is set.
        Other options of TCP and IP are kept and have no effect. So are these five where the
        connection cannot be reached: through a `tailscaled` without a TUN, which holds the
        connection itself, and in a process that received the socket from another one.

        Raises:
            OSError: EINVAL if the value is outside of Linux's range; ENOBUFS in a forked child
                whose parent has ended.
        """
        acting = self._acting_option(level, optname)
        if level not in _TCP_LEVELS and acting is None:
            if optlen is None:
                super().setsockopt(level, optname, value)
            else:
                super().setsockopt(level, optname, value, optlen)
            return
        self._check_open()
        if isinstance(value, (bytes, bytearray, memoryview)):
            value = int.from_bytes(bytes(cast("Buffer", value))[:4], sys.byteorder, signed=True)
        value = value or 0
        if acting is None:
            self._options[level, optname] = value
            return
        if not acting.least <= value <= acting.most:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if level == socket.SOL_SOCKET:  # for those who look at the descriptor
            super().setsockopt(level, optname, value)
            value = int(value != 0)
        self._act(acting.option, value)

    def getsockopt(self, level: int, optname: int, buflen: int = 0) -> Any:
        """Return an option.

        Of those that act, what is in force; of other options of TCP and IP, what was set, or 0.
        """
        acting = self._acting_option(level, optname)
        if level not in _TCP_LEVELS and acting is None:
            get: Any = super().getsockopt
            return get(level, optname, buflen) if buflen else get(level, optname)
        self._check_open()
        if acting is None:
            value = self._options.get((level, optname), 0)
        else:
            value = self._in_force(acting.option)
        return value.to_bytes(4, sys.byteorder, signed=True)[:buflen] if buflen else value

    def _acting_option(self, level: int, optname: int) -> _Acting | None:
        return None if self._usual is None else _ACTING.get((level, optname))

    def _act(self, option: int, value: int) -> None:
        if not lib.set_option(self._number(), option, value):
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        self._acting[option] = value

    def _number(self) -> int:
        """Return the number by which the library knows this socket."""
        raise NotImplementedError

    def _in_force(self, option: int) -> int:
        usual = self._usual or ()
        value = self._acting.get(option, usual[option])
        if option == _USER_TIMEOUT and usual[option] and not self._acting.get(option):
            # Not set, it leaves keepalive the time for its last probe (internal/embedded/far.go).
            idle, interval, count = map(self._in_force, (_KEEPIDLE, _KEEPINTVL, _KEEPCNT))
            value = max(usual[option], 1000 * (idle + count * interval))
        return value

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            f"cannot pickle {type(self).__name__!r} object, a descriptor of this process:"
            " multiprocessing hands it over, as an argument of a Process or through a pipe or"
            " queue; socket.send_fds() passes the descriptor alone"
        )

    def _check_open(self) -> None:
        if self.fileno() < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class TailnetSocket(TcpLike):
    """A connection on the tailnet, for everything that takes a connected `socket.socket`.

    Made by `listener.accept()`, `tn.dial()` and `tn.create_connection()`. Timeouts, `makefile`,
    `shutdown`, `detach` and the rest are those of `socket.socket`, with these differences:

    - `getpeername()` and `getsockname()` return (ip, port) on the tailnet.
    - `family` is AF_UNIX, so that event loops in C work, unless it came from an `as_inet()`
      listener.
    - A connection that the peer or the network aborted raises ConnectionResetError from `recv`.
      Code that reads the descriptor in C (an SSLSocket, uvloop) sees a plain end instead, and so
      does a process that received the socket, or its listener, through multiprocessing.
    - It waits for a peer that is gone without a word as SO_KEEPALIVE, TCP_KEEPIDLE and so on say;
      see `setsockopt`. They are on to begin with: 60 s idle, then 4 probes, 15 s apart.
    - Closing it never waits: the node goes on to deliver what was written, in order, whatever
      SO_LINGER says. The node is part of this process: closing it delivers, and so does a normal
      end of the interpreter, for up to 3 seconds. A process that is killed does not, by SIGKILL or
      by the default action of SIGTERM, where the kernel's TCP would: bytes that were written last
      are lost, and the peer hears nothing until its keepalive ends the connection with a reset.
      `tailnet.graceful()` turns SIGTERM into a normal end.
    - Through a `tailscaled` without a TUN, `shutdown(SHUT_WR)` raises TailnetUnsupported: the
      daemon would drop the answer with it.
    """

    __slots__ = ("_connection", "_keeps", "_peer", "_whole")

    def __init__(
        self,
        fileno: int,
        *,
        own: Address,
        peer: Address,
        connection: int = 0,
        whole: bool = False,
        keeps: object = None,
        inet: bool = False,
        usual: Sequence[int] | None = None,
    ) -> None:
        super().__init__(fileno, own, inet=inet, usual=usual)
        self._whole = whole
        self._peer = peer
        self._connection = connection
        self._keeps = keeps  # the node: as long as this is held, it is not taken for forgotten

    def _begin(
        self,
        *,
        own: Address,
        peer: Address,
        connection: int,
        whole: bool,
        usual: Sequence[int] | None,
    ) -> None:
        """Be that connection: a dial makes the socket before it knows."""
        self._own, self._peer, self._connection, self._whole = own, peer, connection, whole
        self._usual = usual

    def _inherit(self, listener: TcpLike) -> None:
        """Begin with the listener's options."""
        self._options = dict(listener._options)
        for option, value in listener._acting.items():  # it may have waited here before they were
            self._act(option, value)

    def _number(self) -> int:
        return self._connection

    def __repr__(self) -> str:
        state = "closed" if self.fileno() < 0 else f"fd={self.fileno()}"
        return f"<{type(self).__name__} {state}, own={self._own}, peer={self._peer}>"

    def getpeername(self) -> Address:
        """Return the peer's (ip, port) on the tailnet."""
        super().getpeername()  # for its error: closed
        return self._peer

    def dup(self) -> TailnetSocket:
        """Return another socket on the same connection, not inheritable."""
        twin = type(self)(
            os.dup(self.fileno()),
            own=self._own,
            peer=self._peer,
            connection=self._connection,
            whole=self._whole,
            keeps=self._keeps,
            inet=self._inet,
            usual=self._usual,
        )
        give_timeout(twin, self.gettimeout())
        twin._options, twin._acting = self._options, self._acting
        return twin

    def plain(self) -> socket.socket:
        """Return an exact `socket.socket` on the same connection, for code that insists on one.

        Its getpeername() is the kernel's name of the peer, which `tn.whois()` understands; options
        of TCP are errors on it, and a connection that was cut off looks like one that ended. The
        connection ends when both are closed.
        """
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, os.dup(self.fileno()))
        give_timeout(plain, self.gettimeout())
        # The node is not taken for forgotten while this is held, either.
        weakref.finalize(plain, id, self._keeps).atexit = False
        return plain

    # --- the end of a connection --------------------------------------------------------------

    def shutdown(self, how: int) -> None:
        """Shut a direction down, or both; as of `socket.socket`.

        Raises:
            TailnetUnsupported: for SHUT_WR, where both directions end at once. Nothing has changed.
        """
        if how == socket.SHUT_WR and self._whole and self.fileno() >= 0:
            raise TailnetUnsupported(
                "shutdown(SHUT_WR): this tailscaled, which has no TUN, ends both directions at"
                " once, and the answer would be lost; say in your protocol where a message ends,"
                ' close() the connection, or use backend="embedded"'
            )
        super().shutdown(how)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Receive; as of `socket.socket`, but a connection cut off is ConnectionResetError."""
        data = super().recv(bufsize, flags)
        if not data and bufsize:
            self._check_end()
        return data

    def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive into a buffer; otherwise as recv()."""
        count = super().recv_into(buffer, nbytes, flags)
        if not count and memoryview(buffer).nbytes:
            self._check_end()
        return count

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        """Receive; there is no address, as there is none of a TCP connection."""
        return self.recv(bufsize, flags), None

    def recvfrom_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """Receive into a buffer; there is no address."""
        return self.recv_into(buffer, nbytes, flags), None

    def recvmsg(self, bufsize: int, *args: int) -> tuple[bytes, list[Any], int, Any]:
        """Receive; there is neither ancillary data nor an address."""
        data, ancillary, flags, _ = super().recvmsg(bufsize, *args)
        if not data and bufsize:
            self._check_end()
        return data, ancillary, flags, None

    def recvmsg_into(
        self, buffers: Iterable[Buffer], *args: int
    ) -> tuple[int, list[Any], int, Any]:
        """Receive into several buffers; otherwise as recvmsg()."""
        buffers = list(buffers)
        count, ancillary, flags, _ = super().recvmsg_into(buffers, *args)
        if not count and any(memoryview(buffer).nbytes for buffer in buffers):
            self._check_end()
        return count, ancillary, flags, None

    def send(self, data: Buffer, flags: int = 0) -> int:
        """Send; as of `socket.socket`, but a connection cut off is ConnectionResetError."""
        try:
            return super().send(data, flags)
        except BrokenPipeError:
            self._check_end()
            raise

    def sendall(self, data: Buffer, flags: int = 0) -> None:
        """Send everything; otherwise as send().

        It returns when this process's node has the data, not when the peer has it. If the process
        is killed before the node has delivered it, it is lost: see the class, and
        `tailnet.graceful()`.
        """
        try:
            super().sendall(data, flags)
        except BrokenPipeError:
            self._check_end()
            raise

    def sendmsg(self, buffers: Iterable[Buffer], *args: Any) -> int:
        """Send several buffers; otherwise as send()."""
        try:
            return super().sendmsg(buffers, *args)
        except BrokenPipeError:
            self._check_end()
            raise

    def _check_end(self) -> None:
        """Raise ConnectionResetError where the end was none that the peer meant."""
        if lib.connection_was_reset(self._connection):
            host, port = self._peer
            raise ConnectionResetError(
                errno.ECONNRESET, f"connection with {host} port {port} on the tailnet was reset"
            )
