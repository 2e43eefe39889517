"""The faces behind one set of words, so that one test holds for all.

A test is synchronous and says what happens; `Sync` does it as a program with threads would,
`Async` as one with asyncio would, on an event loop in a thread of its own, and `Trio` as one with
trio would. What they return has the same methods, each with a limit of its own so that a hang is
a failure with a name.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from tailnet import (
    AsyncCapture,
    AsyncTailnet,
    AsyncTailnetHandle,
    Tailnet,
    TailnetConfig,
    TailnetHandle,
    TailnetListener,
    TailnetSocket,
)
from tests.support.threads import Pool, finished, started
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")
Address = tuple[str, int]

LIMIT = 60.0  # seconds for any one step


class Sync:
    """As a program with threads would do it."""

    name = "sync"

    def close(self) -> None:
        """Nothing runs."""

    @contextlib.contextmanager
    def node(self, config: TailnetConfig, **up: Any) -> Iterator[SyncNode]:
        """Join, and leave at the end."""
        tailnet = Tailnet(config)
        try:
            yield SyncNode(tailnet.up(**up))
        finally:
            tailnet.close()

    def up(self, tailnet: Tailnet, **kwargs: Any) -> SyncNode:
        """Join."""
        return SyncNode(tailnet.up(**kwargs))

    def tailnet(self, config: TailnetConfig) -> Tailnet:
        """Return a Tailnet that has not joined."""
        return Tailnet(config)

    def leave(self, tailnet: Tailnet) -> None:
        """Close it."""
        tailnet.close()

    def interrupted(self, call: Callable[[], object]) -> float:
        """Press Ctrl-C while `call` waits, and return how many seconds it then took to end."""
        pressed: list[float] = []
        over = threading.Event()

        def press() -> None:
            # Again after a second: a signal that comes after Python has looked for one, and before
            # the system call, does not end that, of any blocking socket.
            while not over.wait(1.0 if pressed else 0.2):
                pressed.append(time.monotonic())
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        presser = started(press)
        try:
            call()
        except KeyboardInterrupt:
            return time.monotonic() - pressed[0]
        finally:
            over.set()
            finished(presser)
        raise AssertionError("it ended by itself")


class SyncNode:
    """A node."""

    def __init__(self, handle: TailnetHandle) -> None:
        self.handle = handle

    def listen(self, address: str | Address, **kwargs: Any) -> SyncListener:
        """Listen."""
        return SyncListener(self.handle.listen(address, **kwargs))

    def dial(self, address: str | Address, timeout: float | None = LIMIT) -> SyncConn:
        """Connect."""
        return SyncConn(self.handle.dial(address, timeout=timeout))

    def whois(self, target: Any) -> Any:
        """Ask who it is."""
        return self.handle.whois(target, timeout=LIMIT)

    def status(self) -> Any:
        """Ask how it is."""
        return self.handle.status(timeout=LIMIT)

    def ping(self, target: Any, timeout: float | None = LIMIT, **kwargs: Any) -> Any:
        """Ask for an answer."""
        return self.handle.ping(target, timeout=timeout, **kwargs)

    def capture(self, path: Any, **kwargs: Any) -> Any:
        """Capture packets."""
        return self.handle.capture(path, **kwargs)

    def close(self) -> None:
        """Leave."""
        self.handle.close()


class SyncListener:
    """A listener."""

    def __init__(self, socket: TailnetListener) -> None:
        self.socket = socket

    def accept(self, timeout: float | None = LIMIT) -> tuple[SyncConn, Address]:
        """Accept within a time; None waits for ever."""
        self.socket.settimeout(timeout)
        conn, peer = self.socket.accept()
        return SyncConn(conn), peer

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()


class SyncConn:
    """A connection."""

    def __init__(self, socket: TailnetSocket) -> None:
        self.socket = socket
        socket.settimeout(LIMIT)

    def send(self, data: bytes | memoryview) -> None:
        """Send everything."""
        self.socket.sendall(data)

    def receive(self, limit: int = 1 << 16, timeout: float | None = LIMIT) -> bytes:
        """Receive something, or b"" at the end."""
        self.socket.settimeout(timeout)
        return self.socket.recv(limit)

    def end(self) -> None:
        """Half-close."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close."""
        self.socket.close()


class Async:
    """As a program with asyncio would do it."""

    name = "asyncio"

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="asyncio", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(LIMIT)
        assert not self._thread.is_alive(), "something blocks the event loop"
        self.loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = LIMIT) -> T:
        """Run a coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    @contextlib.contextmanager
    def node(self, config: TailnetConfig, **up: Any) -> Iterator[AsyncNode]:
        """Join, and leave at the end."""
        tailnet = AsyncTailnet(config)
        try:
            yield AsyncNode(self, self.run(tailnet.up(**up)))
        finally:
            self.run(tailnet.close())

    def up(self, tailnet: AsyncTailnet, **kwargs: Any) -> AsyncNode:
        """Join."""
        return AsyncNode(self, self.run(tailnet.up(**kwargs)))

    def tailnet(self, config: TailnetConfig) -> AsyncTailnet:
        """Return a Tailnet that has not joined."""
        return AsyncTailnet(config)

    def leave(self, tailnet: AsyncTailnet) -> None:
        """Close it."""
        self.run(tailnet.close())

    def interrupted(self, call: Callable[[], object]) -> float:
        """Cancel the task behind `call` while it waits; return how long it then took to end."""
        with Pool(1) as caller:
            before = self._tasks()
            ending = caller.submit(call)
            task = next(iter(self._await_new_task(before)))
            cancelled = time.monotonic()
            self.loop.call_soon_threadsafe(task.cancel)
            error = ending.exception(LIMIT)
            assert isinstance(error, concurrent.futures.CancelledError), error
            return time.monotonic() - cancelled

    def _tasks(self) -> set[asyncio.Task[Any]]:
        async def tasks() -> set[asyncio.Task[Any]]:
            return asyncio.all_tasks() - {asyncio.current_task()}

        return self.run(tasks())

    def _await_new_task(self, before: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            if new := self._tasks() - before:
                return new
        raise AssertionError("no task was started")

    async def accept(self, listener: TailnetListener) -> tuple[socket.socket, Address]:
        """Accept."""
        return await self.loop.sock_accept(listener)

    async def send(self, conn: TailnetSocket, data: bytes | memoryview) -> None:
        """Send everything."""
        await self.loop.sock_sendall(conn, data)

    async def receive(self, conn: TailnetSocket, limit: int) -> bytes:
        """Receive something."""
        return await self.loop.sock_recv(conn, limit)

    async def within(self, coroutine: Coroutine[Any, Any, T], timeout: float | None) -> T:
        """Wait for something; too late, that is the builtin TimeoutError, on Python 3.10 too."""
        try:
            return await asyncio.wait_for(coroutine, timeout)
        except asyncio.TimeoutError as e:
            raise TimeoutError from e


class Trio(Async):
    """As a program with trio would do it."""

    name = "trio"

    def __init__(self) -> None:
        running: concurrent.futures.Future[trio.lowlevel.TrioToken] = concurrent.futures.Future()
        self._over = trio.Event()
        self._scopes: set[trio.CancelScope] = set()

        async def main() -> None:
            running.set_result(trio.lowlevel.current_trio_token())
            await self._over.wait()

        self._thread = threading.Thread(target=trio.run, args=(main,), name="trio", daemon=True)
        self._thread.start()
        self._token = running.result(LIMIT)

    def close(self) -> None:
        """End the run."""
        self._token.run_sync_soon(self._over.set)
        self._thread.join(LIMIT)
        assert not self._thread.is_alive(), "something blocks trio"

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = LIMIT) -> T:
        """Run a coroutine in a task."""

        async def task() -> T:
            scope = trio.CancelScope()
            self._scopes.add(scope)
            try:
                with trio.fail_after(math.inf if timeout is None else timeout), scope:
                    return await coroutine
            finally:
                self._scopes.discard(scope)
            raise concurrent.futures.CancelledError

        return trio.from_thread.run(task, trio_token=self._token)

    def interrupted(self, call: Callable[[], object]) -> float:
        """Cancel the scope of `call` while it waits; return how long it then took to end."""
        with Pool(1) as caller:
            before = set(self._scopes)
            ending = caller.submit(call)
            eventually("a task is started", lambda: self._scopes - before)
            cancelled = time.monotonic()
            for scope in self._scopes - before:
                self._token.run_sync_soon(scope.cancel)
            error = ending.exception(LIMIT)
            assert isinstance(error, concurrent.futures.CancelledError), error
            return time.monotonic() - cancelled

    async def accept(self, listener: TailnetListener) -> tuple[socket.socket, Address]:
        """Accept."""
        while True:
            with contextlib.suppress(BlockingIOError):
                conn, peer = listener.accept()
                conn.setblocking(False)
                return conn, peer
            await trio.lowlevel.wait_readable(listener)

    async def send(self, conn: TailnetSocket, data: bytes | memoryview) -> None:
        """Send everything."""
        left = memoryview(data)
        while left:
            with contextlib.suppress(BlockingIOError):
                left = left[conn.send(left) :]
                continue
            await trio.lowlevel.wait_writable(conn)

    async def receive(self, conn: TailnetSocket, limit: int) -> bytes:
        """Receive something."""
        while True:
            with contextlib.suppress(BlockingIOError):
                return conn.recv(limit)
            await trio.lowlevel.wait_readable(conn)

    async def within(self, coroutine: Coroutine[Any, Any, T], timeout: float | None) -> T:
        """Wait for something; too late, that is a TimeoutError."""
        with trio.move_on_after(math.inf if timeout is None else timeout):
            return await coroutine
        raise TimeoutError


class AsyncNode:
    """A node."""

    def __init__(self, face: Async, handle: AsyncTailnetHandle) -> None:
        self.face, self.handle = face, handle

    def listen(self, address: str | Address, **kwargs: Any) -> AsyncListener:
        """Listen."""
        return AsyncListener(self.face, self.face.run(self.handle.listen(address, **kwargs)))

    def dial(self, address: str | Address, timeout: float | None = LIMIT) -> AsyncConn:
        """Connect."""
        return AsyncConn(self.face, self.face.run(self.handle.dial(address, timeout=timeout)))

    def whois(self, target: Any) -> Any:
        """Ask who it is."""
        return self.face.run(self.handle.whois(target, timeout=LIMIT))

    def status(self) -> Any:
        """Ask how it is."""
        return self.face.run(self.handle.status(timeout=LIMIT))

    def ping(self, target: Any, timeout: float | None = LIMIT, **kwargs: Any) -> Any:
        """Ask for an answer."""
        return self.face.run(self.handle.ping(target, timeout=timeout, **kwargs))

    def capture(self, path: Any, **kwargs: Any) -> AsyncCapturing:
        """Capture packets."""
        return AsyncCapturing(self.face, self.face.run(self.handle.capture(path, **kwargs)))

    def close(self) -> None:
        """Leave."""
        self.face.run(self.handle.close())


class AsyncCapturing:
    """A capture that goes on."""

    def __init__(self, face: Async, capture: AsyncCapture) -> None:
        self.face, self.capture = face, capture

    def wait(self, timeout: float | None = None) -> None:
        """Wait for its end."""
        self.face.run(self.capture.wait(timeout))

    def close(self) -> None:
        """End it."""
        self.face.run(self.capture.close())

    def __enter__(self) -> Self:
        self.face.run(self.capture.__aenter__())
        return self

    def __exit__(self, *raised: object) -> None:
        self.face.run(self.capture.__aexit__(*raised))


class AsyncListener:
    """A listener."""

    def __init__(self, face: Async, socket: TailnetListener) -> None:
        self.face, self.socket = face, socket

    def accept(self, timeout: float | None = LIMIT) -> tuple[AsyncConn, Address]:
        """Accept within a time; None waits for ever."""

        async def accept() -> tuple[socket.socket, Address]:
            return await self.face.within(self.face.accept(self.socket), timeout)

        conn, peer = self.face.run(accept(), None)
        assert isinstance(conn, TailnetSocket)
        return AsyncConn(self.face, conn), peer

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()


class AsyncConn:
    """A connection."""

    def __init__(self, face: Async, socket: TailnetSocket) -> None:
        self.face, self.socket = face, socket

    def send(self, data: bytes | memoryview) -> None:
        """Send everything."""
        self.face.run(self.face.send(self.socket, data), 2 * LIMIT)

    def receive(self, limit: int = 1 << 16, timeout: float | None = LIMIT) -> bytes:
        """Receive something, or b"" at the end."""

        async def receive() -> bytes:
            return await self.face.within(self.face.receive(self.socket, limit), timeout)

        return self.face.run(receive(), None)

    def end(self) -> None:
        """Half-close."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close."""
        self.socket.close()


Face = Sync | Async
Conn = SyncConn | AsyncConn


def hears(conn: Conn, data: bytes) -> None:
    """Receive exactly that, in whatever pieces it comes."""
    got = b""
    while len(got) < len(data) and (more := conn.receive(len(data) - len(got))):
        got += more
    assert got == data


Node = SyncNode | AsyncNode
