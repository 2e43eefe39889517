"""A service under test, on a node of its own, and a node to call it from. Needs no pytest.

    with Testnet() as net, Service(net, serve) as service, service.dial() as conn:
        conn.sendall(b"hello")

Rules of this file:

- The listener exists before the service runs, so nobody has to wait until it is reachable.
- What the service raises is raised where it is stopped, which is in the test. Its node is closed at
  once when that happens, so that a caller who waits for an answer hears of it.
- Nodes that one `Nodes` makes know each other before anybody gets them.

The fixtures on top are in pytest_tailnet.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import threading
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from .._engine import ops
from .._engine.wait import Steps, wait, wait_async
from .._node import asking, listening
from .._node.node import LocalNode
from .._tailnet import TailnetHandle
from .._tailnet_async import AsyncTailnetHandle
from ..errors import TailnetClosed, TailnetError, TailnetRefused
from ..models import PeersChanged
from ..models._events import parse_event

if TYPE_CHECKING:
    from typing_extensions import Self

    from .._sockets.connection import Address, TailnetSocket
    from .._sockets.listener import TailnetListener
    from ._testnet import Testnet

__all__ = ["AsyncService", "AsyncTailnetPair", "Nodes", "Service", "TailnetPair"]

Serve = Callable[["TailnetListener", TailnetHandle], object]
AsyncServe = Callable[["TailnetListener", AsyncTailnetHandle], Awaitable[object]]

MEET_TIMEOUT = 20.0  # seconds for nodes to hear of each other; it takes some 10 ms
DIAL_TIMEOUT = 10.0  # seconds, also for each answer: a service that hangs must not hang its test
STOP_TIMEOUT = 5.0  # seconds for a service to end once asked; and again, once its node is closed
DRAIN_TIMEOUT = 1.0  # seconds that a connection the test left open may take when nodes close


class TailnetPair(NamedTuple):
    """Two nodes that know each other."""

    server: TailnetHandle
    client: TailnetHandle


class AsyncTailnetPair(NamedTuple):
    """Two nodes that know each other, for asyncio."""

    server: AsyncTailnetHandle
    client: AsyncTailnetHandle


class Nodes:
    """The nodes of one test. Its methods are run by `wait` or `wait_async`, as all that waits."""

    def __init__(self, net: Testnet) -> None:
        self._net = net
        self._nodes: list[LocalNode] = []
        self._caller: LocalNode | None = None

    def join(self, hostname: str, **fields: Any) -> Steps[LocalNode]:
        """Make a node that joins, and that knows and is known to the others; fields as of config.

        Raises:
            TailnetError: as of Tailnet.up. `close` closes what is left of it.
        """
        node = LocalNode(self._net.config(hostname, **fields))
        self._nodes.append(node)
        yield from node.up(None, None)
        others = [other for other in self._nodes if other.joined and not other.closed]
        for one in others:
            yield from _know(one, others if one is node else [node])
        return node

    def caller(self) -> Steps[LocalNode]:
        """Return the node that services are called from, the same one for all."""
        if self._caller is None or self._caller.closed:
            self._caller = yield from self.join("caller")
        return self._caller

    def close(self) -> Steps[None]:
        """Close all of them, at the same time. Idempotent."""
        nodes, self._nodes = self._nodes, []
        leaving = [node.start_closing(DRAIN_TIMEOUT) for node in nodes]
        for node, fd in zip(nodes, leaving, strict=True):
            if fd is not None:
                yield from ops.reply(fd, None, f"node {node.name!r} to leave")


def _know(node: LocalNode, others: list[LocalNode]) -> Steps[None]:
    """Wait until a node has heard of others."""
    deadline = ops.deadline_of(MEET_TIMEOUT)
    unknown = {other.ips[0]: other.name for other in others if other is not node}
    lines = asking.watch(node)
    try:
        while unknown:
            what = f"node {node.name!r} to hear of {', '.join(unknown.values())}"
            line = yield from lines.next(deadline, what)
            event = parse_event(line) if line is not None else PeersChanged()
            if isinstance(event, PeersChanged):
                for ip in (ip for peer in event.changed for ip in peer.ips):
                    unknown.pop(ip, None)
            if line is None:
                node.handle()  # closed meanwhile: says so
                break
    finally:
        lines.close()


def _means_closed(error: BaseException) -> bool:
    """Report whether this is how accept() and the like end when their listener is closed."""
    if isinstance(error, OSError):
        return error.errno in (errno.ECONNABORTED, errno.EBADF)
    # ValueError: poll(2) and select(2) on a closed socket.
    no_fd = isinstance(error, ValueError) and "file descriptor" in str(error)
    return no_fd or isinstance(error, TailnetClosed)


class _Running:
    """What a service is, however it runs."""

    def __init__(
        self,
        net: Testnet,
        *,
        address: str = ":80",
        hostname: str = "service",
        nodes: Nodes | None = None,
    ) -> None:
        self._own_nodes = nodes is None
        self._nodes = Nodes(net) if nodes is None else nodes
        self._hostname = hostname
        self._listen_on = address
        self._local: LocalNode | None = None
        self._listener: TailnetListener | None = None
        self._address: Address | None = None
        self._stopping = False
        self._was_cut_off = False
        self._ended = ""  # how the service ended by itself
        self._error: BaseException | None = None

    @property
    def listener(self) -> TailnetListener:
        """What it listens on."""
        assert self._listener is not None, "enter the service first: `with`, or `async with`"
        return self._listener

    @property
    def address(self) -> Address:
        """Its (ip, port) on the tailnet, also when it is over."""
        assert self._address is not None, "enter the service first: `with`, or `async with`"
        return self._address

    def _begin(self) -> Steps[LocalNode]:
        """Join, listen, and return the node to call from."""
        self._local = yield from self._nodes.join(self._hostname)
        self._listener = yield from listening.listen(self._local, self._listen_on, 128, None)
        self._address = self._listener.getsockname()
        return (yield from self._nodes.caller())

    def _end(self) -> Steps[None]:
        """Close what _begin opened."""
        if self._listener is not None:
            self._listener.close()
        if self._local is not None:
            yield from self._local.close(DRAIN_TIMEOUT)
        if self._own_nodes:
            yield from self._nodes.close()

    def _cut_off(self) -> None:
        """Close its node and its connections now."""
        self._was_cut_off = True
        if self._local is not None:
            with contextlib.suppress(TailnetError):
                self._local.start_closing(0.0)

    def _failed(self, error: BaseException) -> bool:
        """Keep an error, unless it is how the service says that it was stopped."""
        if self._stopping and (_means_closed(error) or self._was_cut_off):
            return False
        self._error = error
        self._ended = f"it raised {type(error).__name__}"  # which is raised where it is stopped
        return True

    @contextlib.contextmanager
    def _explaining(self) -> Generator[None]:
        """Refuse, with the reason as the cause, where the service has ended by itself.

        At once: the node of one that failed is closed, and a dial of it would wait for its timeout.
        """
        try:
            if self._ended and not self._stopping:
                raise TailnetRefused(f"service {self._hostname!r} accepts no more connections")
            yield
        except TailnetRefused as e:
            if not self._ended or self._stopping:
                raise
            raise e from RuntimeError(f"service {self._hostname!r} is over: {self._ended}")

    def _did_not_end(self) -> RuntimeError:
        return RuntimeError(
            f"service {self._hostname!r} did not end within {STOP_TIMEOUT:.0f} s of being stopped: "
            "let it end when its listener is closed (accept raises ConnectionAbortedError), or "
            "say how to end it with `stop=`"
        )

    def check(self) -> None:
        """Raise what the service raised, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _check_after(self, error: BaseException | None) -> None:
        """Raise what the service raised, as the cause of what the body of the `with` raised."""
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            return
        mine, self._error = self._error, None
        if mine is not None:
            raise mine from error


class Service(_Running):
    """A service under test, in a thread: `with Service(net, serve) as service`.

    Args:
        net: The offline tailnet.
        serve: Called with the listener and the service's node, in a thread. The service is over
            when it returns.
        address: What it listens on.
        hostname: Of its node.
        stop: Called to end it. Without, its listener is closed, and what `serve` then raises from
            accept() and the like is expected.
        nodes: Which nodes know its node; its own ones without.
    """

    def __init__(
        self,
        net: Testnet,
        serve: Serve,
        *,
        address: str = ":80",
        hostname: str = "service",
        stop: Callable[[], object] | None = None,
        nodes: Nodes | None = None,
    ) -> None:
        super().__init__(net, address=address, hostname=hostname, nodes=nodes)
        self._serve = serve
        self._stop = stop
        self._thread: threading.Thread | None = None

    @property
    def node(self) -> TailnetHandle:
        """The node it runs on."""
        assert self._local is not None, "enter the service first"
        return TailnetHandle(self._local)

    def start(self) -> Self:
        """Join, listen and run it; entering does the same. At once where it runs.

        Raises:
            TailnetError: as of Tailnet.up and listen. Nothing is left of it.
        """
        if self._thread is None:
            try:
                self.caller = TailnetHandle(wait(self._begin()))
            except BaseException:
                wait(self._end())
                raise
            self._thread = threading.Thread(
                target=self._run, name=f"tailnet-{self._hostname}", daemon=True
            )
            self._thread.start()
        return self

    def dial(self, timeout: float | None = DIAL_TIMEOUT) -> TailnetSocket:
        """Connect to it from `caller`; the socket keeps the timeout.

        Raises:
            TailnetError: as of TailnetHandle.dial; TailnetRefused, with the reason as its cause,
                where the service has ended by itself. Nothing is left of it.
        """
        with self._explaining():
            return self.caller.create_connection(self.address, timeout)

    def stop(self) -> None:
        """End it and close its node. Idempotent.

        Raises:
            RuntimeError: it does not end; its node is closed, its thread is left behind.
            BaseException: whatever the service raised. It has ended.
        """
        self._stop_it()
        self.check()

    def _stop_it(self) -> None:
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._stopping = True
        try:
            if self._stop is not None:
                self._stop()
            self.listener.close()
            thread.join(STOP_TIMEOUT)
            if thread.is_alive():
                self._cut_off()
                thread.join(STOP_TIMEOUT)
            if thread.is_alive():
                raise self._did_not_end()
        finally:
            wait(self._end())

    def _run(self) -> None:
        try:
            result = self._serve(self.listener, self.node)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError("serve is a coroutine function: use AsyncService")
            self._ended = "`serve` has returned"
        except BaseException as e:  # noqa: BLE001 - raised in the test, which reports it
            if self._failed(e):
                self._cut_off()
        finally:
            self.listener.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop_it()
        self._check_after(error)


class AsyncService(_Running):
    """A service under test, as a task: `async with AsyncService(net, serve) as service`.

    Args:
        net: The offline tailnet.
        serve: A coroutine function, called with the listener (non-blocking) and the service's
            node. The service is over when it returns.
        address: What it listens on.
        hostname: Of its node.
        stop: Called, and awaited, to end it. Without, its task is cancelled.
        nodes: Which nodes know its node; its own ones without.
    """

    def __init__(
        self,
        net: Testnet,
        serve: AsyncServe,
        *,
        address: str = ":80",
        hostname: str = "service",
        stop: Callable[[], object] | None = None,
        nodes: Nodes | None = None,
    ) -> None:
        super().__init__(net, address=address, hostname=hostname, nodes=nodes)
        self._serve = serve
        self._stop = stop
        self._task: asyncio.Task[None] | None = None
        self.was_entered = False  # whether it was tried, at least

    @property
    def node(self) -> AsyncTailnetHandle:
        """The node it runs on."""
        assert self._local is not None, "enter the service first"
        return AsyncTailnetHandle(self._local)

    async def dial(self, timeout: float | None = DIAL_TIMEOUT) -> TailnetSocket:
        """Connect to it from `caller`; see Service.dial."""
        with self._explaining():
            return await self.caller.dial(self.address, timeout=timeout)

    async def __aenter__(self) -> Self:
        self.was_entered = True
        try:
            self.caller = AsyncTailnetHandle(await wait_async(self._begin()))
        except BaseException:
            await wait_async(self._end())
            raise
        self.listener.setblocking(False)
        self._task = asyncio.ensure_future(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop_it()
        self._check_after(error)

    async def _stop_it(self) -> None:
        assert self._task is not None
        task, self._task = self._task, None
        self._stopping = True
        try:
            if self._stop is not None:
                result = self._stop()
                if inspect.isawaitable(result):
                    await result
                await asyncio.wait([task], timeout=STOP_TIMEOUT)
            task.cancel()
            await asyncio.wait([task], timeout=STOP_TIMEOUT)
            if not task.done():
                self._cut_off()
                await asyncio.wait([task], timeout=STOP_TIMEOUT)
            if not task.done():
                raise self._did_not_end()
        finally:
            await wait_async(self._end())

    async def _run(self) -> None:
        try:
            result = self._serve(self.listener, self.node)
            if not inspect.isawaitable(result):
                raise TypeError("serve is not a coroutine function: use Service")
            await result
            self._ended = "`serve` has returned"
        except asyncio.CancelledError:
            self._ended = "its task was cancelled"
            raise
        except BaseException as e:  # noqa: BLE001 - raised in the test, which reports it
            if self._failed(e):
                self._cut_off()
        finally:
            self.listener.close()
