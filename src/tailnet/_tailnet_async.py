"""The asynchronous face: `AsyncTailnet` and `AsyncTailnetHandle`, for asyncio.

Rules of this file: as of _tailnet.py, whose methods these are, with `await`. Sockets are
non-blocking, as event loops want them; no thread is started. A task that is cancelled leaves what
an interrupt leaves in the synchronous twin.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from ._engine import ops
from ._engine.wait import wait_async
from ._faces import (
    CAPTURE_END,
    CAPTURING,
    DEFAULT_TIMEOUT,
    WATCHING,
    HandleBase,
    TailnetBase,
    WhoIsTarget,
    for_async_with,
)
from ._node import asking, dialing, listening
from ._node.asking import PING_TIMEOUT, PingKind
from ._node.dialing import SocketOptions
from ._node.node import CLOSE_TIMEOUT, LocalNode, OnLogin
from ._sockets.connection import Address, TailnetSocket
from ._sockets.listener import TailnetListener
from .errors import TailnetClosed
from .models import Event, Ping, Status, WhoIs
from .models._events import parse_event

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AsyncCapture", "AsyncTailnet", "AsyncTailnetHandle", "AsyncWatch"]


@for_async_with
class AsyncTailnet(TailnetBase):
    """A tailnet to join: `async with AsyncTailnet(config) as tn`; see Tailnet."""

    _joins = "`async with` and `await up()` give"

    async def up(
        self, timeout: float | None = None, *, on_login: OnLogin | None = None
    ) -> AsyncTailnetHandle:
        """Join; see Tailnet.up. `on_login` may be a coroutine function."""
        await wait_async(self._node.up(timeout, on_login))
        return AsyncTailnetHandle(self._node)

    async def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Leave, or end a pending attempt; see Tailnet.close."""
        await wait_async(self._node.close(timeout))

    async def __aenter__(self) -> AsyncTailnetHandle:
        return await self.up()

    async def __aexit__(self, *_: object) -> None:
        if self._node.is_ours():
            await self.close()


@for_async_with
class AsyncTailnetHandle(HandleBase):
    """The live connection to a tailnet; see TailnetHandle."""

    async def listen(
        self, address: str | Address, *, backlog: int = 128, timeout: float | None = None
    ) -> TailnetListener:
        """Listen; see TailnetHandle.listen.

        The listener is non-blocking: give it to `asyncio.start_server(sock=...)`, or accept with
        `loop.sock_accept`.
        """
        listener = await wait_async(listening.listen(self._node, address, backlog, timeout))
        listener.setblocking(False)
        return listener

    async def dial(self, address: str | Address, *, timeout: float | None = None) -> TailnetSocket:
        """Connect; see TailnetHandle.dial.

        The socket is non-blocking: give it to `asyncio.open_connection(sock=...)`.
        """
        return await wait_async(dialing.dial(self._node, address, timeout, 0.0))

    async def create_connection(
        self,
        address: Address,
        timeout: float | None = DEFAULT_TIMEOUT,
        source_address: Address | None = None,
        socket_options: SocketOptions | None = None,
        *,
        all_errors: bool = False,
    ) -> TailnetSocket:
        """Connect, with the arguments of `socket.create_connection`; the socket is non-blocking."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = socket.getdefaulttimeout()
        return await wait_async(dialing.dial(self._node, address, timeout, 0.0, socket_options))

    async def whois(self, target: WhoIsTarget, *, timeout: float | None = None) -> WhoIs:
        """Say who is behind an address; see TailnetHandle.whois."""
        return await wait_async(asking.whois(self._node, target, timeout))

    async def status(self, *, timeout: float | None = None) -> Status:
        """Return the state of the node and its peers; see TailnetHandle.status."""
        return await wait_async(asking.status(self._node, timeout))

    async def ping(
        self,
        target: WhoIsTarget,
        *,
        kind: PingKind = "disco",
        size: int = 0,
        timeout: float | None = PING_TIMEOUT,
    ) -> Ping:
        """Ask a peer for an answer; see TailnetHandle.ping."""
        return await wait_async(asking.ping(self._node, target, kind, size, timeout))

    def watch(self) -> AsyncWatch:
        """Return what changes, as an asynchronous iterator; see TailnetHandle.watch."""
        return AsyncWatch(self._node)

    async def capture(
        self, path: str | os.PathLike[str], *, seconds: float | None = None
    ) -> AsyncCapture:
        """Begin to write the node's packets to a file; see TailnetHandle.capture."""
        return AsyncCapture(await wait_async(asking.capture(self._node, path, seconds)))

    async def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Leave the tailnet; see TailnetHandle.close."""
        await wait_async(self._node.close(timeout))

    async def __aenter__(self) -> Self:
        if self._node.closed:
            raise TailnetClosed(f"node {self._node.name!r} was closed")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._node.is_ours():
            await self.close()


@for_async_with
class AsyncWatch(AsyncIterator[Event]):
    """The events of a node; see Watch."""

    def __init__(self, node: LocalNode) -> None:
        self._lines = asking.watch(node)

    async def next(self, timeout: float | None = None) -> Event:
        """Return the next event.

        Raises:
            TailnetTimeout: `timeout` (seconds) passed. Nothing is lost; ask again.
            StopAsyncIteration: the node was closed, or close() called.
        """
        line = await wait_async(self._lines.next(ops.deadline_of(timeout), WATCHING))
        if line is None:
            raise StopAsyncIteration
        return parse_event(line)

    async def __anext__(self) -> Event:
        return await self.next()

    def close(self) -> None:
        """End it, also for a task that waits in it. Idempotent."""
        self._lines.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._lines!r}>"

    def __del__(self) -> None:
        if hasattr(self, "_lines"):
            self.close()


@for_async_with
class AsyncCapture:
    """A capture of a node's packets that goes on; see Capture."""

    def __init__(self, session: ops.Session) -> None:
        self._session = session

    async def wait(self, timeout: float | None = None) -> None:
        """Wait until it has ended; see Capture.wait."""
        await wait_async(self._session.wait(ops.deadline_of(timeout), CAPTURING))

    async def close(self) -> None:
        """End it, and wait until the file has all packets; see Capture.close."""
        await wait_async(self._session.end(ops.deadline_of(CAPTURE_END), CAPTURING))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._session!r}>"
