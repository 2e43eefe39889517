"""Nothing is left of what was: joins, connections, cancelled calls; and closing stays quick."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from tailnet import (
    AsyncTailnetHandle,
    TailnetConfigError,
    TailnetHandle,
    TailnetPeerNotFound,
    TailnetSocket,
)
from tailnet._engine import lib
from tailnet.testing import Testnet
from tests.support.held import nothing_left
from tests.support.threads import Pool
from tests.support.waiting import eventually

MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def _many_descriptors() -> Iterator[None]:
    """Let this process have as many descriptors as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def floor(work: Callable[[], object], times: int) -> int:
    """Do something again and again, and return the least heap the library had, in bytes.

    Go collects when its heap has doubled, so what it has now says little; its least, over enough
    work for some collections, is what is really held.
    """
    least = lib.stats()["heap_bytes"]
    for _ in range(times):
        work()
        least = min(least, lib.stats()["heap_bytes"])
    return least


def join_and_leave(net: Testnet) -> None:
    """Be on the tailnet for a moment, and do something there."""
    with net.tailnet("passing") as tn, tn.listen(":80") as listener, tn.dial("passing:80") as near:
        far, _ = listener.accept()
        with far:
            far.sendall(b"x")
            assert near.recv(1) == b"x"


def joins(net: Testnet) -> tuple[int, int]:
    """Come and go 100 times; return the heap's floor in the beginning and at the end."""
    for _ in range(10):
        join_and_leave(net)
    with nothing_left(goroutines=30):
        before = floor(lambda: join_and_leave(net), 20)
        for _ in range(60):
            join_and_leave(net)
        return before, floor(lambda: join_and_leave(net), 20)


def connections(net: Testnet) -> tuple[int, int]:
    """Make, use and close 10,000 connections; return the heap's floors likewise."""
    with (
        net.tailnet("many") as tn,
        net.tailnet("dialer") as dialer,
        Pool(9) as pool,
        tn.listen(":80", backlog=256) as listener,
    ):

        def serve() -> None:
            with contextlib.suppress(ConnectionAbortedError):
                while True:
                    far, _ = listener.accept()
                    with far:
                        far.sendall(far.recv(1))

        def call(_: int) -> None:
            with dialer.dial(f"{tn.ip}:80", timeout=60) as near:
                near.sendall(b"x")
                assert near.recv(1) == b"x"
                assert near.recv(1) == b""

        def call_100() -> None:
            list(pool.map(call, range(100)))

        pool.submit(serve)
        # Until as many connections are in TIME_WAIT as there will be: it lasts a second.
        full = time.monotonic() + 2
        while time.monotonic() < full:
            call_100()
        with nothing_left(goroutines=30):
            before = floor(call_100, 15)
            list(pool.map(call, range(7_000)))
            return before, floor(call_100, 15)


def load(net: Testnet) -> tuple[int, int]:
    """Hold 2,000 connections, and close them; return the memory before and when it has settled."""
    with net.tailnet("many") as tn, net.tailnet("dialer") as dialer, tn.listen(":80") as listener:
        before = resident()
        ends: list[socket.socket] = []
        for _ in range(2_000):
            ends += (dialer.dial(f"{tn.ip}:80", timeout=60), listener.accept()[0])
        for end in ends:
            end.close()
        eventually("it was a load", lambda: resident() > before + SETTLED)
        eventually("memory is given back", lambda: resident() < before + SETTLED, timeout=30)
        return before, resident()


SETTLED = 60 * MIB


def resident() -> int:
    """Return how much memory this process has."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def apart(scenario: Callable[[Testnet], tuple[int, int]], **environ: str) -> tuple[int, int]:
    """Run a scenario on a tailnet of its own, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_leaks", scenario.__name__],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    return before, after


Operation = Callable[[AsyncTailnetHandle], Coroutine[Any, Any, object]]


async def accept(tn: AsyncTailnetHandle) -> object:
    """Wait for a connection that does not come."""
    with await tn.listen(":0") as listener:
        return await asyncio.get_running_loop().sock_accept(listener)


async def watch(tn: AsyncTailnetHandle) -> object:
    """Read events for ever."""
    async with tn.watch() as events:
        return [event async for event in events]


async def capture(tn: AsyncTailnetHandle) -> None:
    """Capture for ever, where no other call does."""
    with tempfile.NamedTemporaryFile() as file, contextlib.suppress(TailnetConfigError):
        async with await tn.capture(file.name) as capture:
            await capture.wait()


SILENT: list[TailnetSocket] = []  # connections on which nothing comes


async def receive(_: AsyncTailnetHandle) -> object:
    """Wait for bytes that do not come."""
    near = SILENT.pop()
    try:
        return await asyncio.get_running_loop().sock_recv(near, 1)
    finally:
        SILENT.append(near)


@contextlib.asynccontextmanager
async def silent_connections(tn: AsyncTailnetHandle, count: int) -> AsyncIterator[None]:
    """Fill SILENT."""
    # Not within what is cancelled: asyncio's own sock_accept loses, unclosed, a connection that it
    # has already when it is cancelled.
    async with contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(await tn.listen(":0"))
        for _ in range(count):
            near = await tn.dial(listener.getsockname())
            SILENT.append(stack.enter_context(near))
            far, _ = await asyncio.get_running_loop().sock_accept(listener)
            stack.enter_context(far)
        yield
        SILENT.clear()


MUCH = bytes(8 * MIB)


async def send(_: AsyncTailnetHandle) -> None:
    """Write more than fits where nobody reads."""
    near = SILENT.pop()
    try:
        await asyncio.get_running_loop().sock_sendall(near, MUCH)
    finally:
        SILENT.append(near)


OPERATIONS: dict[str, Operation] = {
    "accept": accept,
    "capture": capture,
    "dial": lambda tn: tn.dial("100.65.0.1:80"),  # the first fake node
    "listen": lambda tn: tn.listen(":0"),
    "ping": lambda tn: tn.ping("100.65.0.1"),
    "receive": receive,
    "send": send,
    "status": lambda tn: tn.status(),
    "watch": watch,
    "whois": lambda tn: tn.whois("100.65.0.1"),
}


async def cancelled(tn: AsyncTailnetHandle, what: str, count: int) -> None:
    """Cancel calls, a hundred at once, at every stage of their life."""

    async def give_up(after: int) -> None:
        task = asyncio.ensure_future(OPERATIONS[what](tn))
        for _ in range(after):  # turns of the loop: from before it starts to when it waits
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, TailnetPeerNotFound):
            result = await task
            if isinstance(result, socket.socket):  # it was done before
                result.close()

    for start in range(0, count, 100):
        await asyncio.gather(*(give_up(n % 33) for n in range(start, start + 100)))


def cancellations(net: Testnet) -> tuple[int, int]:
    """Cancel 1,000 calls of each kind; return the heap's floors likewise."""
    net.control.add_fake_nodes(1)
    stack = contextlib.AsyncExitStack()
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        run = loop.run_until_complete
        tn = run(stack.enter_async_context(net.async_tailnet("fickle")))
        run(stack.enter_async_context(silent_connections(tn, 100)))

        def a_hundred_of_each() -> None:
            for what in OPERATIONS.keys() - {"send"}:  # what of it was sent fills buffers
                run(cancelled(tn, what, 100))

        for _ in range(5):
            a_hundred_of_each()
        with nothing_left(goroutines=30):
            before = floor(a_hundred_of_each, 5)
            after = floor(a_hundred_of_each, 5)
        run(stack.aclose())
    return before, after


@pytest.mark.timeout(240)
@pytest.mark.parametrize("scenario", [joins, connections, cancellations])
def test_what_comes_and_goes_leaves_nothing(
    scenario: Callable[[Testnet], tuple[int, int]],
) -> None:
    """After 100 joins, 10,000 connections, 1,000 cancelled calls all is given back, memory too."""
    # Go collects often: the floors are then what is held.
    before, after = apart(scenario, GOGC="20")
    assert after < before + 8 * MIB


@pytest.mark.timeout(240)
def test_memory_comes_back_after_a_load() -> None:
    """What a load has taken goes back to the system within 30 s, with both ends still up."""
    before, after = apart(load)
    assert after < before + SETTLED


@pytest.mark.parametrize("what", OPERATIONS)
def test_1000_cancelled(net: Testnet, what: str) -> None:
    """1,000 calls are cancelled, at every stage of their life, and nothing of them stays."""

    async def main() -> None:
        async with net.async_tailnet("fickle") as tn:
            net.control.add_fake_nodes(1)
            async with tn.watch() as events:
                await anext(e async for e in events if "fake-1" in str(e))
            full = what == "send"  # such connections are busy until they are closed
            with nothing_left():
                async with silent_connections(tn, 100 if what in ("receive", "send") else 0):
                    with contextlib.nullcontext() if full else nothing_left():
                        await cancelled(tn, what, 1000)

    asyncio.run(main())


def test_1000_cancelled_joins_and_closes(net: Testnet) -> None:
    """1,000 joins are cancelled in their first half second, then their ends; nothing stays."""

    async def main() -> None:
        with nothing_left():
            for batch in range(20):
                tailnets = [net.async_tailnet("torn") for _ in range(50)]
                tasks = [asyncio.ensure_future(tailnet.up()) for tailnet in tailnets]
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(asyncio.gather(*tasks), 0.02 * batch)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                ends = [asyncio.ensure_future(tailnet.close()) for tailnet in tailnets]
                for _ in range(batch % 5):  # turns of the loop
                    await asyncio.sleep(0)
                for end in ends:
                    end.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
                await asyncio.gather(*(tailnet.close() for tailnet in tailnets))

    asyncio.run(main())


def test_600_full_connections_of_a_node_to_itself(net: Testnet) -> None:
    """They are closed at once, and the node is as before: it can be dialed, and nothing stays."""
    with net.tailnet("narcissus") as tn, tn.listen(":80") as listener:
        with nothing_left(), contextlib.ExitStack() as stack:
            dialed = []
            for _ in range(600):
                dialed.append(stack.enter_context(tn.dial((str(tn.ip), 80), timeout=60)))
                stack.enter_context(listener.accept()[0])
            for near in dialed:
                near.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        near.send(MUCH)
        with tn.dial((str(tn.ip), 80)) as near, listener.accept()[0] as far:
            near.sendall(b"x")
            assert far.recv(1) == b"x"


PEER = """
import asyncio, resource, sys
from tailnet import AsyncTailnet, TailnetConfig

async def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ip, count = sys.argv[1], int(sys.argv[2])
    async with AsyncTailnet(TailnetConfig(hostname="peer", ephemeral=True)) as tn:
        loop, gate = asyncio.get_running_loop(), asyncio.Semaphore(40)
        async def dial(_):
            async with gate:
                return await tn.dial((ip, 80), timeout=60)
        conns = await asyncio.gather(*map(dial, range(count)))
        print("ready", flush=True)
        async def end(conn):
            with conn:
                try:
                    while await loop.sock_recv(conn, 1000): pass
                    return "end"
                except ConnectionResetError:
                    return "reset"
        ends = await asyncio.gather(*map(end, conns))
        print(ends.count("end"), ends.count("reset"), flush=True)

asyncio.run(main())
"""


@pytest.mark.timeout(180)
def test_closing_with_1000_open_connections(net: Testnet) -> None:
    """close() takes less than 3 s with 1,000 open connections, and every peer sees its end."""
    count = 1000
    with nothing_left():
        tn = net.tailnet("busy").up()
        with tn.listen(":80", backlog=count) as listener:
            with peer(net, tn, count) as program:
                assert program.stdout is not None
                accepted = [listener.accept()[0] for _ in range(count)]
                assert program.stdout.readline() == "ready\n"
                for conn in accepted[::2]:
                    conn.sendall(b"last words")
                began = time.monotonic()
                tn.close()
                assert time.monotonic() - began < 3
                ends, resets = map(int, program.stdout.readline().split())
                assert ends == count, f"{resets} were reset"
            for conn in accepted:
                conn.close()


@contextlib.contextmanager
def peer(net: Testnet, tn: TailnetHandle, count: int) -> Iterator[subprocess.Popen[str]]:
    """Run a program that opens connections and waits for their ends."""
    with subprocess.Popen(
        [sys.executable, "-c", PEER, str(tn.ip), str(count)],
        env={**os.environ, **net.environ()},
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        yield program
        assert program.wait(60) == 0


@pytest.mark.timeout(180)
def test_closing_after_thousands_of_connections(net: Testnet) -> None:
    """close() is quick also where thousands of connections were made in the last moment."""
    with nothing_left(), net.tailnet("target") as target:
        listener = target.listen(":80", backlog=512)
        tn = net.tailnet("hurried").up()
        with listener, Pool(9) as pool:

            def drop() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        listener.accept()[0].close()

            def call(_: int) -> None:
                tn.dial(f"{target.ip}:80", timeout=60).close()

            pool.submit(drop)
            list(pool.map(call, range(3000)))
            for node in (tn, target):
                began = time.monotonic()
                node.close()
                assert time.monotonic() - began < 3


if __name__ == "__main__":
    with Testnet() as own:
        own.tailnet("first").up().close()
        print(*globals()[sys.argv[1]](own))
