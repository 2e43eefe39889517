"""Waiting: the protocol of _engine/wait.py, in both runners."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import time
from typing import NoReturn

import pytest

from tailnet._engine import ops
from tailnet._engine.wait import Call, Steps, Wait, wait, wait_async
from tests.support import runners
from tests.support.runners import Pair, Run, run_async, soon

run, pair = runners.run, runners.pair


def test_readable_descriptor_ends_a_wait(run: Run, pair: Pair) -> None:
    """A generator is sent True once its descriptor can be read, though it is so from the start."""
    fd, go = pair
    go.send(b"x")

    def steps() -> Steps[list[bool]]:
        return [(yield Wait(fd.fileno(), None)), (yield Wait(fd.fileno(), soon(-1)))]

    assert run(steps()) == [True, True]


def test_writable_descriptor_ends_a_wait(run: Run) -> None:
    """A wait for writing times out on a full descriptor with nothing to read, and ends on room."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        size = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                size += ours.send(bytes(1 << 16))

        def drain() -> None:
            left = size
            while left:
                left -= len(theirs.recv(left))

        def steps() -> Steps[list[bool]]:
            full = yield Wait(ours.fileno(), soon(0.03), writing=True)
            yield Call(drain)
            room = yield Wait(ours.fileno(), soon(60), writing=True)
            return [full, room, (yield Wait(ours.fileno(), soon(0.03)))]

        assert run(steps()) == [False, True, False]


@pytest.mark.parametrize("seconds", [-1, 0.03])
def test_deadline_ends_a_wait(run: Run, pair: Pair, seconds: float) -> None:
    """A generator is sent False at its deadline and not before, with a descriptor or without."""
    deadline = soon(seconds)

    def steps() -> Steps[list[bool]]:
        first = yield Wait(None, deadline)
        return [first, time.monotonic() >= deadline, (yield Wait(pair[0].fileno(), soon(seconds)))]

    assert run(steps()) == [False, True, False]


def test_function_is_called(run: Run) -> None:
    """A user's function is called in order, and the generator is sent True."""
    calls: list[str] = []

    def steps() -> Steps[bool]:
        return (yield Call(lambda: calls.append("a"))) and (yield Call(lambda: calls.append("b")))

    assert run(steps()) is True
    assert calls == ["a", "b"]


def test_coroutine_function_needs_the_asynchronous_face() -> None:
    """wait_async awaits a coroutine function; wait refuses it by its name, with no warning."""
    calls: list[str] = []

    async def function() -> None:
        await asyncio.sleep(0)
        calls.append("a")

    def steps() -> Steps[bool]:
        return (yield Call(function, "on_peer"))

    assert run_async(steps()) is True
    with pytest.raises(TypeError, match=r"^on_peer is a coroutine function, which only AsyncT"):
        wait(steps())
    gc.collect()  # a coroutine never awaited would warn now
    assert calls == ["a"]


def test_exception_of_a_function_goes_through_the_generator(run: Run) -> None:
    """What a user's function raises is raised where it was asked for, and can be answered there."""

    def fail() -> NoReturn:
        raise LookupError("x")

    def steps() -> Steps[str]:
        try:
            yield Call(fail)
        except LookupError:
            yield Call(lambda: None)
            return "answered"
        return "not raised"

    assert run(steps()) == "answered"


def test_interrupt_cancels(run: Run, pair: Pair) -> None:
    """Ctrl-C while waiting reaches the caller, after the generator has cleaned up."""
    events: list[str] = []

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    def steps() -> Steps[None]:
        try:
            yield Call(lambda: signal.setitimer(signal.ITIMER_REAL, 0.02))
            yield Wait(pair[0].fileno(), None)
        except GeneratorExit:
            events.append("not told why")
        finally:
            events.append("cancelled")

    former = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(steps())
    finally:
        signal.signal(signal.SIGALRM, former)
    assert events == ["cancelled"]


def test_cancelled_task_cancels(pair: Pair) -> None:
    """A cancelled task is cancelled in the generator, and leaves no descriptor with the loop."""
    number = pair[0].fileno()
    raised: list[type[BaseException]] = []

    async def main() -> None:
        waiting = asyncio.Event()

        def steps() -> Steps[None]:
            yield Call(waiting.set)  # the task goes on to wait before anybody hears of this
            try:
                yield Wait(number, soon(60))
            except BaseException as e:
                raised.append(type(e))
                raise

        task = asyncio.ensure_future(wait_async(steps()))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not asyncio.get_running_loop().remove_reader(number)

    asyncio.run(main())
    assert raised == [asyncio.CancelledError]


def test_sleep_ends_at_its_deadline(run: Run) -> None:
    """A sleep is over after its seconds; a deadline before that ends it, and it says so."""
    start = time.monotonic()
    assert run(ops.sleep(0.02, None)) is True
    assert run(ops.sleep(0.0, start + 60)) is True
    assert time.monotonic() >= start + 0.02
    assert run(ops.sleep(60, soon())) is False
