"""What is waited for: the replies and streams of _engine/ops.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import operator
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from tailnet import (
    TailnetConfigError,
    TailnetDialError,
    TailnetInternalError,
    TailnetNotRunning,
    TailnetRefused,
    TailnetTimeout,
)
from tailnet._engine import ops
from tailnet._engine.fd import Fd
from tailnet._engine.wait import Steps, Wait, wait, wait_async
from tests.support import runners
from tests.support.runners import Pair, Run, owner, soon
from tests.support.threads import finished, started

T = TypeVar("T")
GIVE_UP = [
    operator.methodcaller("send", False),  # as a runner does at the deadline
    operator.methodcaller("throw", KeyboardInterrupt()),  # at Ctrl-C
    operator.methodcaller("close"),  # when it was interrupted itself
]

run, pair = runners.run, runners.pair


def observed(steps: Steps[T], waiting: Callable[[], object]) -> Steps[T]:
    """Run an operation that succeeds, and tell once it has said what it waits for."""
    want = next(steps)
    waiting()
    try:
        while True:
            want = steps.send((yield want))
    except StopIteration as done:
        result: T = done.value
        return result


def send(go: socket.socket, data: bytes) -> None:
    """Send what Go would send."""
    go.sendall(data)


# --- replies ---


def test_answer_at_once_is_not_waited_for(run: Run) -> None:
    """A call that answered without a descriptor has its document already."""
    assert run(ops.reply({"a": 1}, soon(-1), "x")) == {"a": 1}


def test_reply_comes_in_pieces(pair: Pair) -> None:
    """A document is complete at its newline, wherever it was cut; a false alarm does no harm."""
    fd, go = pair
    steps = ops.reply(fd, None, "x")
    assert next(steps) == Wait(fd.fileno(), None)
    for byte in '{"ok": "\u00e4"}'.encode():
        send(go, bytes([byte]))
        steps.send(True)
    steps.send(True)  # nothing is there
    send(go, b"\n")
    with pytest.raises(StopIteration) as done:
        steps.send(True)
    assert done.value.value == "\u00e4"
    assert fd.fileno() == -1


def test_reply_may_be_large(run: Run, pair: Pair) -> None:
    """A reply of a mebibyte arrives whole, though no socket buffer holds it."""
    fd, go = pair
    document = "x" * (1 << 20)

    def answer() -> None:
        with go:
            go.sendall(json.dumps({"ok": document}).encode() + b"\n")

    thread = started(answer)
    assert run(ops.reply(fd, None, "x")) == document
    finished(thread)


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (b"", TailnetInternalError, "the library ended without who it is"),
        (b'{"ok": 1}', TailnetInternalError, "the library ended without who it is"),
        (b'{"error": {"code": 7012, "message": "no way"}}\n', TailnetDialError, "no way"),
    ],
)
def test_error_reply_is_raised(
    data: bytes, error: type[Exception], says: str, run: Run, pair: Pair
) -> None:
    """An error document is raised as its class, and so is an end without any document."""
    fd, go = pair
    with go:
        send(go, data)
    with pytest.raises(error, match=says):
        run(ops.reply(fd, None, "who it is"))
    assert fd.fileno() == -1


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupt_loses_no_descriptor(after: bool) -> None:
    """Wherever it comes while a descriptor is taken over, that is closed, once."""

    class Interrupted(socket.socket):
        times = 0

        def __init__(self, fileno: int) -> None:
            if after:
                super().__init__(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno)
            Interrupted.times += 1
            if Interrupted.times == 1:
                raise KeyboardInterrupt
            super().__init__(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno)

    ours, go = socket.socketpair()
    answer = SimpleNamespace(fd=ours.detach())
    fd = Fd(Interrupted)
    with go:
        with pytest.raises(KeyboardInterrupt):
            fd.adopt(answer)
        fd.adopt(answer)  # as lib does
        assert answer.fd == -1
        fd.cancel()
        assert go.recv(1) == b""
    assert fd.fileno() == -1


def test_an_answer_leaves_what_follows(run: Run, pair: Pair) -> None:
    """The answer to a dial is the first line, however it comes; what follows stays."""
    fd, go = pair
    steps = ops.answer(fd, None, "x")
    assert next(steps) == Wait(fd.fileno(), None)
    send(go, b'{"ok": ')
    steps.send(True)
    send(go, b"7}\nwelcome\n")
    with pytest.raises(StopIteration) as done:
        steps.send(True)
    assert done.value.value == 7
    assert fd.receive() == b"welcome\n"
    send(go, b'{"error": {"code": 7013, "message": "no"}}\n')
    with pytest.raises(TailnetRefused, match="no"):
        run(ops.answer(fd, None, "x"))
    go.close()
    with pytest.raises(TailnetInternalError, match="ended without x"):
        run(ops.answer(fd, None, "x"))
    assert fd.fileno() >= 0


def test_late_reply_is_cancelled(run: Run, pair: Pair) -> None:
    """At the deadline the error says what was waited for, and the other side is told."""
    fd, go = pair
    with pytest.raises(TailnetTimeout, match=r"^timed out waiting for a connection to api:80$"):
        run(ops.reply(fd, soon(), "a connection to api:80"))
    assert go.recv(1) == b""
    assert fd.fileno() == -1


@pytest.mark.parametrize("read", [ops.reply, ops.answer])
def test_half_a_reply_is_waited_for_until_the_deadline(
    read: Callable[..., Steps[Any]], run: Run, pair: Pair
) -> None:
    """A line that stops in the middle is no answer: the wait sleeps, and ends at the deadline."""
    fd, go = pair
    send(go, b'{"ok": "half')
    began, work = time.monotonic(), time.thread_time()
    with pytest.raises(TailnetTimeout, match=r"^timed out waiting for the rest$"):
        run(read(fd, soon(0.3), "the rest"))
    assert 0.3 <= time.monotonic() - began < 5
    assert time.thread_time() - work < 0.2  # and does not look for it again and again


@pytest.mark.parametrize("give_up", GIVE_UP, ids=["late", "interrupted", "dropped"])
def test_a_reply_that_is_given_up_is_cancelled(
    give_up: Callable[[Steps[Any]], None], pair: Pair
) -> None:
    """However a wait is given up, the other side is told, and the descriptor is closed."""
    fd, go = pair
    steps = ops.reply(fd, None, "x")
    next(steps)
    send(go, b'{"ok": {"id"')
    with contextlib.suppress(TailnetTimeout, KeyboardInterrupt):
        give_up(steps)
    with pytest.raises(ConnectionResetError):  # as of any socket closed with data unread
        go.recv(1)
    assert fd.fileno() == -1


@pytest.mark.parametrize("timeout", [-1, math.nan, "1", [1]])
def test_a_timeout_is_seconds(timeout: Any) -> None:
    """What is no number of seconds is refused, and shown."""
    with pytest.raises(TailnetConfigError, match=re.escape(repr(timeout))):
        ops.deadline_of(timeout)
    assert ops.deadline_of(math.inf) is None


def test_forked_child_cancels_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child's copy can be closed without an end for the parent; the parent's ends both."""
    fd, go = pair
    go.setblocking(False)
    copy = owner(os.dup(fd.fileno()))
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        copy.cancel()
    assert copy.fileno() == -1
    with pytest.raises(BlockingIOError):
        go.recv(1)
    copy = owner(os.dup(fd.fileno()))
    fd.cancel()
    assert go.recv(1) == b""
    assert copy.receive() == b""


# --- streams ---


def test_lines_are_split(run: Run, pair: Pair) -> None:
    """A stream is one object per line however it was cut, then None; a torn line is none."""
    fd, go = pair
    lines = ops.Lines(fd)
    send(go, b'{"a": 1}\n{"b"')
    assert run(lines.next(None, "x")) == {"a": 1}
    send(go, b': "c\\nd"}\n{"lost": 2}\n{"torn')
    go.close()
    found = [run(lines.next(None, "x")) for _ in range(4)]
    assert found == [{"b": "c\nd"}, {"lost": 2}, None, None]
    assert fd.fileno() == -1


@pytest.mark.parametrize(
    "last", [b'{"ok": null}\n', b'{"error": {"code": 7020, "message": "closed"}}\n']
)
def test_a_stream_says_that_it_has_ended(run: Run, pair: Pair, last: bytes) -> None:
    """The last line ends a stream before its descriptor does; so does the close of the node."""
    fd, go = pair
    lines = ops.Lines(fd)
    send(go, b'{"n": 1}\n' + last)
    assert [run(lines.next(None, "x")) for _ in range(3)] == [{"n": 1}, None, None]
    assert fd.fileno() == -1


def test_a_stream_says_what_ended_it(run: Run, pair: Pair) -> None:
    """An error on the last line is raised once, by its code, and then the stream has ended."""
    fd, go = pair
    lines = ops.Lines(fd)
    send(go, b'{"n": 1}\n{"error": {"code": 7010, "message": "the daemon is gone"}}\n')
    assert run(lines.next(None, "x")) == {"n": 1}
    with pytest.raises(TailnetNotRunning, match="the daemon is gone"):
        run(lines.next(None, "x"))
    assert run(lines.next(None, "x")) is None
    assert fd.fileno() == -1


def test_stream_goes_on_after_a_timeout(run: Run, pair: Pair) -> None:
    """A deadline says what was waited for and loses nothing of the stream."""
    fd, go = pair
    lines = ops.Lines(fd)
    send(go, b'{"a"')
    with pytest.raises(TailnetTimeout, match=r"^timed out waiting for news$"):
        run(lines.next(soon(), "news"))
    send(go, b": 1}\n")
    assert run(lines.next(soon(60), "news")) == {"a": 1}


def test_closed_stream_gives_what_it_had(run: Run, pair: Pair) -> None:
    """After close the lines that were read already come, then None; the other side is told."""
    fd, go = pair
    lines = ops.Lines(fd)
    send(go, b'{"n": 1}\n{"n": 2}\n')
    assert run(lines.next(None, "x")) == {"n": 1}
    lines.close()
    lines.close()
    assert fd.fileno() == -1
    assert go.recv(1) == b""
    assert [run(lines.next(None, "x")) for _ in range(2)] == [{"n": 2}, None]


def test_close_wakes_a_thread(pair: Pair) -> None:
    """A thread that waits for the next line gets None when another closes the stream."""
    lines = ops.Lines(pair[0])
    waiting = threading.Event()
    found: list[Any] = []
    thread = started(lambda: found.append(wait(observed(lines.next(None, "x"), waiting.set))))
    assert waiting.wait(10)
    lines.close()
    finished(thread)
    assert found == [None]
    assert pair[0].fileno() == -1


def test_close_wakes_a_task(pair: Pair) -> None:
    """A task that waits for the next line gets None when another closes the stream."""

    async def main() -> None:
        lines = ops.Lines(pair[0])
        waiting = asyncio.Event()
        task = asyncio.ensure_future(wait_async(observed(lines.next(None, "x"), waiting.set)))
        await waiting.wait()
        lines.close()
        assert await asyncio.wait_for(task, 10) is None

    asyncio.run(main())
    assert pair[0].fileno() == -1


def test_second_reader_is_refused(run: Run, pair: Pair) -> None:
    """Who asks for a line while somebody waits for it is told at once, and takes nothing away."""
    fd, go = pair
    lines = ops.Lines(fd)
    first = lines.next(None, "news")
    next(first)
    send(go, b'{"n": 1}\n{"n": 2}\n')
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"^another thread or task is .* waiting for news$"):
            run(lines.next(None, "news"))
    with pytest.raises(StopIteration) as done:
        first.send(True)
    assert [done.value.value, run(lines.next(None, "news"))] == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("give_up", GIVE_UP, ids=["late", "interrupted", "dropped"])
def test_reader_that_gives_up_closes_a_closed_stream(
    give_up: Callable[[Steps[Any]], None], pair: Pair
) -> None:
    """A stream closed under a reader who is then cancelled is closed by him, and has ended."""
    fd, _ = pair
    lines = ops.Lines(fd)
    steps = lines.next(None, "x")
    next(steps)
    lines.close()
    assert fd.fileno() >= 0
    with contextlib.suppress(TailnetTimeout, KeyboardInterrupt):
        give_up(steps)
    assert fd.fileno() == -1
    assert wait(lines.next(None, "x")) is None
