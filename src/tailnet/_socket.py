"""A connection: `TailnetSocket`, a real connected socket whose addresses are those of the tailnet.

Rules of this file:

- The descriptor is an AF_UNIX stream; the library pumps its bytes to and from the tailnet. The
  name of its other end spells the peer, so the kernel carries the peer's address to whoever holds
  the descriptor, in this process or in another.
- What programs do to a TCP socket works: options of TCP and IP are kept and have no effect, and
  every address is (ip, port), of IPv6 peers too.
- A unix socket shows an aborted connection as a plain end. The library remembers how each
  connection ended, and it is asked before an end is believed.

How a connection gets here: _listener.py (accepted) and _node.py (dialed).
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from . import _lib
from .errors import TailnetUnsupported

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Address", "TailnetSocket"]

Address = tuple[str, int]

# Options of these levels would raise EOPNOTSUPP on a unix socket; http.client alone sets
# TCP_NODELAY on every connection.
_TCP_LEVELS = frozenset({socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6})


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

    A last word "/whole" says that both directions end at once. On macOS, which has no such names,
    it is a path that ends in "<nonce>-<connection>-<ip:port>". Returns None for any other name.
    """
    try:
        if isinstance(name, bytes) and name[:1] == b"\0":
            _, connection, address, *ends = name.decode("ascii").split("/")
        elif isinstance(name, str):
            _, connection, address, *ends = name.rpartition("/")[2].split("-")
        else:
            return None
        return PeerName(int(connection), parse_address(address), ends == ["whole"])
    except ValueError:
        return None


class TcpLike(socket.socket):
    """A unix socket that programs may treat as one of TCP: what listeners and connections share."""

    __slots__ = ("_inet", "_options", "_own")

    def __init__(self, fileno: int, own: Address, *, inet: bool) -> None:
        # Type and family are given, or socket.socket would ask the kernel for each.
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno)
        self._own = own
        self._inet = inet
        self._options: dict[tuple[int, int], int] = {}

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
        """Set an option; those of TCP and IP are kept and have no effect."""
        if level in _TCP_LEVELS:
            self._check_open()
            if isinstance(value, (bytes, bytearray, memoryview)):
                value = int.from_bytes(bytes(cast("Buffer", value))[:4], sys.byteorder, signed=True)
            self._options[level, optname] = value or 0
        elif optlen is None:
            super().setsockopt(level, optname, value)
        else:
            super().setsockopt(level, optname, value, optlen)

    def getsockopt(self, level: int, optname: int, buflen: int = 0) -> Any:
        """Return an option; of TCP and IP, what was set, or else 0."""
        if level not in _TCP_LEVELS:
            get: Any = super().getsockopt
            return get(level, optname, buflen) if buflen else get(level, optname)
        self._check_open()
        value = self._options.get((level, optname), 0)
        return value.to_bytes(4, sys.byteorder, signed=True)[:buflen] if buflen else value

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
      Code that reads the descriptor in C (an SSLSocket, uvloop) sees a plain end instead.
    - Closing it never waits: what was written goes on to the peer, while the node is up. It ends
      in order, whatever SO_LINGER says.
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
    ) -> None:
        super().__init__(fileno, own, inet=inet)
        self._whole = whole
        self._peer = peer
        self._connection = connection
        self._keeps = keeps  # the node: as long as this is held, it is not taken for forgotten

    def _begin(self, *, own: Address, peer: Address, connection: int, whole: bool) -> None:
        """Be that connection: a dial makes the socket before it knows."""
        self._own, self._peer, self._connection, self._whole = own, peer, connection, whole

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
        )
        twin.settimeout(self.gettimeout())
        twin._options = self._options
        return twin

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
        """Send everything; otherwise as send()."""
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
        if _lib.connection_was_reset(self._connection):
            host, port = self._peer
            raise ConnectionResetError(
                errno.ECONNRESET, f"connection with {host} port {port} on the tailnet was reset"
            )
