"""Operations and who runs them: for the tests of what waits and of what is waited for.

The fixtures are for modules that name them: `run, pair = runners.run, runners.pair`.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from tailnet._engine.fd import Fd
from tailnet._engine.wait import Steps, wait, wait_async

T = TypeVar("T")
Run = Callable[[Steps[Any]], Any]
Pair = tuple[Fd, socket.socket]


def run_async(steps: Steps[T]) -> T:
    """Run an operation on an event loop of its own."""
    return asyncio.run(wait_async(steps))


@pytest.fixture(params=[wait, run_async], ids=["wait", "wait_async"])
def run(request: pytest.FixtureRequest) -> Run:
    """Both runners; what is true of one is true of the other."""
    runner: Run = request.param
    return runner


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The library's descriptor as Python has it, and the end that Go would hold."""
    ours, go = socket.socketpair()
    with go:
        go.settimeout(10)
        fd = owner(ours.detach())
        yield fd, go
        fd.close()


def owner(number: int) -> Fd:
    """Return an owner of a descriptor, as of one in an answer of the library."""
    fd = Fd()
    answer = SimpleNamespace(fd=number)
    fd.adopt(answer)
    assert answer.fd == -1  # which it then holds no more
    return fd


def soon(seconds: float = 0.02) -> float:
    """Return a deadline that is near."""
    return time.monotonic() + seconds
