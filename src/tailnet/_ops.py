"""What comes on the descriptors of the library: replies and streams.

Rules of this file:

- A function here is a generator of the protocol in _wait.py, and does not know who runs it.
- A reply's descriptor is closed when its generator ends, however it ends; so is a descriptor the
  reply carries, unless the caller gets it.
- A deadline that passes says what was waited for.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from ._fd import Fd
from ._wait import Steps, Wait
from .errors import Code, TailnetTimeout, error_from_document


class Reply(NamedTuple):
    """A document, and the descriptor that came with it; the caller owns that."""

    document: Any
    fd: int | None = None


def deadline_of(timeout: float | None) -> float | None:
    """Turn seconds from now into a deadline of the monotonic clock."""
    return None if timeout is None else time.monotonic() + timeout


def sleep(seconds: float, deadline: float | None, what: str) -> Steps[None]:
    """Wait for some seconds; raise TailnetTimeout, at the deadline, where it comes first."""
    until = time.monotonic() + seconds
    late = deadline is not None and deadline < until
    yield Wait(None, deadline if late else until)
    if late:
        raise _timeout(what)


def reply(
    source: Any,
    deadline: float | None,
    what: str,
    undo: Callable[[Any], None] | None = None,
) -> Steps[Reply]:
    """Read the answer of a call.

    Args:
        source: What the call returned: the document itself, or the Fd it will arrive on.
        deadline: When to give up.
        what: What is waited for, in words that follow "waiting for".
        undo: Called with the document where the wait was given up but the answer had already
            arrived, so that what it names can be released.

    Raises:
        TailnetError: what the library reports, by its code.
        TailnetTimeout: the deadline passed. The operation is cancelled.
    """
    if not isinstance(source, Fd):
        return Reply(source)
    text = bytearray()
    carried: list[int] = []
    try:
        while not (yield from _read(source, text, carried, deadline, what)):
            pass
        document = _decoded(text, what)
        return Reply(document, carried.pop() if carried else None)
    except BaseException:
        # The shutdown decides the race: an answer sent before it is in our queue, and one after
        # it fails on the other side.
        source.shutdown()
        if undo is not None:
            with contextlib.suppress(Exception):
                while _take(source, text, carried):
                    pass
                undo(_decoded(text, what))
        raise
    finally:
        source.cancel()
        for fd in carried:
            os.close(fd)


class Lines:
    """A stream: one JSON object per line. Owns its descriptor; one reader at a time."""

    def __init__(self, fd: Fd) -> None:
        self._fd = fd
        self._text = bytearray()
        self._ended = False
        self._waiting = False
        self._closed = False

    def next(self, deadline: float | None, what: str) -> Steps[Any]:
        """Return the next object, or None at the end of the stream.

        Raises:
            TailnetTimeout: the deadline passed. The stream can be read on.
            RuntimeError: somebody else waits in it already.
        """
        if self._waiting:
            raise RuntimeError(f"another thread or task is already waiting for {what}")
        self._waiting = True
        try:
            while (end := self._text.find(b"\n")) < 0:
                if self._ended:
                    return None
                self._ended = yield from _read(self._fd, self._text, [], deadline, what)
            line = self._text[:end]
            del self._text[: end + 1]
            return json.loads(line)
        finally:
            self._waiting = False
            if self._closed or self._ended:  # closed meanwhile, and given up before the end came
                self._ended = True
                self._fd.close()

    def close(self) -> None:
        """End the stream. Whoever waits gets what had arrived, then None. Idempotent."""
        self._closed = True  # before the look at _waiting: one of the two closes
        self._fd.shutdown()
        # Not under somebody who waits: an event loop would never hear of a closed descriptor.
        # The shutdown wakes him, and he closes it.
        if not self._waiting:
            self._ended = True
            self._fd.close()


def _read(
    source: Fd, text: bytearray, carried: list[int], deadline: float | None, what: str
) -> Steps[bool]:
    """Wait for more, append it to `text` and `carried`, and return True at EOF."""
    if not (yield Wait(source.fileno(), deadline)):
        raise _timeout(what)
    try:
        return not _take(source, text, carried)
    except BlockingIOError:
        return False


def _take(source: Fd, text: bytearray, carried: list[int]) -> bool:
    data, fds = source.receive()
    carried += fds
    text += data
    return bool(data)


def _decoded(text: bytearray, what: str) -> Any:
    if not text:
        raise error_from_document(
            {"code": Code.INTERNAL, "message": f"the library ended without {what}"}
        )
    answer = json.loads(text)
    if "error" in answer:
        raise error_from_document(answer["error"])
    return answer["ok"]


def _timeout(what: str) -> TailnetTimeout:
    return TailnetTimeout(f"timed out waiting for {what}")
