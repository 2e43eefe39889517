"""How to wait: the only module that knows poll(2), asyncio and trio.

Slow operations are generators (`Steps`). They say what to wait for and know nothing of how; the
same generator serves both faces. The protocol:

- A generator yields `Wait(fd, deadline)`: wait until fd can be read, or deadline (of
  `time.monotonic`) has passed; None for either means "not that". With `writing`, wait until fd
  can be written to. It is sent True when fd is ready, and False when the deadline came first.
- It yields `Call(function, name)` to have a function of the user's called; the asynchronous
  runner also awaits what it returns. Errors use the name. It is sent True.
- What interrupts the waiting (KeyboardInterrupt, CancelledError, an exception of the user's
  function) is thrown into the generator, whose `finally` cancels the operation before the
  exception goes on to the caller.
- A runner exhausts or closes the generator in every case.

The generators are in ops.py and in tailnet/_node.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import select
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


# The kernel's, even if gevent or eventlet patches it later. eventlet takes it away, and then no
# node joins (lib.py).
_POLL: Any = getattr(select, "poll", None)


class Wait(NamedTuple):
    """Wait until `fd` can be read, or with `writing` written, until `deadline` at the latest."""

    fd: int | None
    deadline: float | None
    writing: bool = False


class Call(NamedTuple):
    """Call a function of the user's, which errors call `name`."""

    function: Callable[[], object]
    name: str = "the function"


Steps = Generator[Wait | Call, bool, T]


def wait(steps: Steps[T]) -> T:
    """Run an operation in this thread and return what it returns."""
    try:
        want = next(steps)
        while True:
            try:
                sent = _serve(want)
            except BaseException as e:  # noqa: BLE001 - Ctrl-C above all; the generator re-raises
                want = steps.throw(e)
            else:
                want = steps.send(sent)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        steps.close()  # an interrupt may hit between two lines of this function


async def wait_async(steps: Steps[T], *, shielded: bool = False) -> T:
    """Run an operation on asyncio or trio, whichever runs, and return what it returns.

    On trio every call is a checkpoint, also one that need not wait. A shielded one finishes in a
    cancelled scope, where every other would end at once; asyncio cancels a task only once.
    """
    if (trio := _running_trio()) is None:
        return await _run_async(steps, _watch)
    with trio.CancelScope(shield=shielded):
        try:
            await trio.lowlevel.checkpoint()
        except BaseException:
            steps.close()
            raise
        return await _run_async(steps, functools.partial(_watch_trio, trio))


def _running_trio() -> Any:
    # A program that uses trio has imported it. One that has may run asyncio all the same.
    trio: Any = sys.modules.get("trio")
    if trio is not None:
        with contextlib.suppress(RuntimeError):
            trio.lowlevel.current_task()
            return trio
    return None


async def _run_async(steps: Steps[T], watch: Callable[[Wait], Awaitable[bool]]) -> T:
    try:
        want = next(steps)
        while True:
            try:
                sent = await _serve_async(want, watch)
            except BaseException as e:  # noqa: BLE001 - CancelledError above all
                want = steps.throw(e)
            else:
                want = steps.send(sent)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        steps.close()


def _serve(want: Wait | Call) -> bool:
    if isinstance(want, Wait):
        return _poll(want)
    result = want.function()
    if inspect.iscoroutine(result):
        result.close()
        # Not the function itself: its arguments may be a login URL.
        raise TypeError(f"{want.name} is a coroutine function, which only AsyncTailnet can await")
    return True


async def _serve_async(want: Wait | Call, watch: Callable[[Wait], Awaitable[bool]]) -> bool:
    if isinstance(want, Wait):
        return await watch(want)
    result = want.function()
    if inspect.isawaitable(result):
        await result
    return True


def _poll(want: Wait) -> bool:
    # poll(2) and not select(2), which fails on descriptors above 1023. Python repeats it after
    # a signal handler that does not raise (PEP 475).
    poll = _POLL()
    if want.fd is not None:
        poll.register(want.fd, select.POLLOUT if want.writing else select.POLLIN)
    while True:
        milliseconds = None
        if want.deadline is not None:
            # Rounded up, so that the last round does not spin. poll(2) takes a C int: a
            # deadline in a month needs several rounds.
            left = max(0.0, want.deadline - time.monotonic())
            milliseconds = math.ceil(min(left * 1000, 1 << 30))
        if poll.poll(milliseconds):
            return True
        if want.deadline is not None and time.monotonic() >= want.deadline:
            return False


async def _watch(want: Wait) -> bool:
    import asyncio  # its loop runs, so it is there; importing it above costs others a third more

    loop = asyncio.get_running_loop()
    served: asyncio.Future[bool] = loop.create_future()

    def serve(ready: bool) -> None:
        if not served.done():
            served.set_result(ready)

    timer = None
    if want.deadline is not None:
        timer = loop.call_later(max(0.0, want.deadline - time.monotonic()), serve, False)
    if want.fd is not None and want.writing:
        loop.add_writer(want.fd, serve, True)
    elif want.fd is not None:
        loop.add_reader(want.fd, serve, True)
    try:
        return await served
    finally:
        # Before the generator closes the descriptor: a closed one in the loop's selector would
        # take the next owner of the number down with it.
        if want.fd is not None and want.writing:
            loop.remove_writer(want.fd)
        elif want.fd is not None:
            loop.remove_reader(want.fd)
        if timer is not None:
            timer.cancel()


async def _watch_trio(trio: Any, want: Wait) -> bool:
    left = math.inf if want.deadline is None else max(0.0, want.deadline - time.monotonic())
    with trio.move_on_after(left) as scope:
        if want.fd is None:
            await trio.sleep_forever()
        elif want.writing:
            await trio.lowlevel.wait_writable(want.fd)
        else:
            await trio.lowlevel.wait_readable(want.fd)
    return not scope.cancelled_caught
