"""How a Python end listens and dials without tailnet: on loopback, and with a tailscaled by hand.

Each class is one way. Those for threads have `join`, `listen`, `dial`, `whois`, `path` and
`close`; those for asyncio have the same as coroutines, and `dial` gives streams.

Read next: nodes.py, the same with a node of ours. It is a module of its own, for an end without
one to load nothing of tailnet.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

from .services import READ_SIZE

if TYPE_CHECKING:
    import asyncio

    Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
else:  # an end with threads does not pay for what it does not use
    Streams = Any


def split(address: str) -> tuple[str, int]:
    """Split "ip:port"."""
    host, _, port = address.rpartition(":")
    return host, int(port)


class Loopback:
    """TCP on 127.0.0.1: what the machine gives."""

    def join(self) -> str:
        """Be ready; return the address of this end."""
        return "127.0.0.1"

    def listen(self, service: str, backlog: int) -> socket.socket:
        """Listen for a service."""
        del service  # each has a port that is free
        listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as Go and asyncio have it
        return listener

    def dial(self, address: str) -> socket.socket:
        """Connect."""
        conn = socket.create_connection(split(address))
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return conn

    def whois(self, address: tuple[str, int]) -> str:
        """Say who is behind an address: nobody knows."""
        del address
        return ""

    def path(self, address: str) -> str:
        """Say which way packets to the other end take."""
        del address
        return "loopback"

    def close(self) -> None:
        """Leave."""


class Socks(Loopback):
    """What a program does without tailnet: it dials through its tailscaled's SOCKS5 server."""

    def __init__(self, server: str) -> None:
        self._server = split(server)

    def dial(self, address: str) -> socket.socket:
        """Connect, by RFC 1928: no authentication, CONNECT to an IPv4 address."""
        host, port = split(address)
        conn = socket.create_connection(self._server)
        try:
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            conn.sendall(b"\5\1\0")
            self._expect(conn, 2)
            conn.sendall(b"\5\1\0\1" + socket.inet_aton(host) + struct.pack(">H", port))
            self._expect(conn, 10)
        except BaseException:
            conn.close()
            raise
        return conn

    @staticmethod
    def _expect(conn: socket.socket, length: int) -> None:
        answer = conn.recv(length, socket.MSG_WAITALL)
        if len(answer) < length or answer[1]:
            raise ConnectionError(f"tailscaled's SOCKS5 server answers {answer!r}")

    def path(self, address: str) -> str:
        """Say which way packets take: this end does not know, its daemon does."""
        del address
        return "unknown"


class AsyncLoopback:
    """Loopback, for asyncio."""

    async def join(self) -> str:
        """Be ready; return the address of this end."""
        return "127.0.0.1"

    async def listen(self, service: str, backlog: int) -> socket.socket:
        """Listen for a service."""
        return Loopback().listen(service, backlog)

    async def dial(self, address: str) -> Streams:
        """Connect."""
        import asyncio

        return await asyncio.open_connection(*split(address), limit=READ_SIZE)

    async def whois(self, address: tuple[str, int]) -> str:
        """Say who is behind an address: nobody knows."""
        del address
        return ""

    async def path(self, address: str) -> str:
        """Say which way packets to the other end take."""
        del address
        return "loopback"

    async def close(self) -> None:
        """Leave."""
