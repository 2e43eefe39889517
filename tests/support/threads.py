"""Threads whose hang is a failure, and not the end of the run."""

from __future__ import annotations

import concurrent.futures
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from tests.support.waiting import WAIT

T = TypeVar("T")

LIMIT = 3 * WAIT  # seconds for threads to end once the test has done its part


class Pool(concurrent.futures.Executor):
    """A ThreadPoolExecutor whose threads may hang.

    That of concurrent.futures joins its threads without a limit, at the end of `with` and again
    when the interpreter ends. pytest's timeout interrupts a test once, so a thread that nobody
    wakes would keep the run from ever ending. This one fails the test and says where it hangs.
    """

    def __init__(self, size: int) -> None:
        self.threads: set[threading.Thread] = set()
        self._size = size
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def submit(
        self, fn: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[T]:
        """Call a function in one of the threads."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def call() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as e:  # noqa: BLE001 - result() raises it
                    future.set_exception(e)

        self._calls.put(call)
        if len(self.threads) < self._size:
            self.threads.add(started(self._work))
        return future

    def _work(self) -> None:
        while call := self._calls.get():
            call()
            del call  # and what it holds

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for what was submitted; fail the test where it does not end."""
        for _ in self.threads:
            self._calls.put(None)
        finished(*self.threads)


def started(function: Callable[..., object], *args: Any) -> threading.Thread:
    """Call a function in a thread that does not keep the interpreter from ending."""
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


def finished(*threads: threading.Thread) -> None:
    """Join threads; fail the test, with their stacks, where they do not."""
    deadline = time.monotonic() + LIMIT
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    hung = [thread.ident for thread in threads if thread.is_alive()]
    if hung:
        frames = [frame for ident, frame in sys._current_frames().items() if ident in hung]
        stacks = "\n".join("".join(traceback.format_stack(frame)) for frame in frames)
        pytest.fail(f"{len(hung)} threads hang:\n{stacks}")
