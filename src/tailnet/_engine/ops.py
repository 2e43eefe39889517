"""What comes on the descriptors of the library: replies and streams.

Rules of this file:

- A function here is a generator of the protocol in wait.py, and does not know who runs it.
- A reply's descriptor is closed when its generator ends, however it ends.
- A deadline that passes says what was waited for.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from .._text import quoted
from ..errors import (
    TailnetClosed,
    TailnetConfigError,
    TailnetInternalError,
    TailnetTimeout,
    error_from_document,
)
from .fd import Fd
from .wait import Steps, Wait


def deadline_of(timeout: float | None) -> float | None:
    """Turn seconds from now into a deadline of the monotonic clock; None, or centuries, is never.

    Raises:
        TailnetConfigError: it is no number of seconds.
    """
    if timeout is None:
        return None
    number: Any = timeout  # from callers who may not check types
    if not isinstance(number, (int, float)) or not number >= 0:  # nan is not
        raise TailnetConfigError(
            f"timeout: want seconds, at least 0, or None, and not {quoted(number)}"
        )
    return None if timeout > threading.TIMEOUT_MAX else time.monotonic() + timeout


def sleep(seconds: float, deadline: float | None) -> Steps[bool]:
    """Wait for some seconds, or until the deadline and return False where that comes first."""
    until = time.monotonic() + seconds
    late = deadline is not None and deadline < until
    yield Wait(None, deadline if late else until)
    return not late


def reply(source: Any, deadline: float | None, what: str) -> Steps[Any]:
    """Return the answer of a call.

    Args:
        source: What the call returned: the document itself, or the Fd it will arrive on.
        deadline: When to give up.
        what: What is waited for, in words that follow "waiting for".

    Raises:
        TailnetError: what the library reports, by its code.
        TailnetTimeout: the deadline passed. The operation is cancelled.
    """
    if not isinstance(source, Fd):
        return source
    try:
        return (yield from answer(source, deadline, what))
    finally:
        source.cancel()


def answer(source: Fd, deadline: float | None, what: str) -> Steps[Any]:
    """Return the answer that is the next line on a descriptor. What follows stays there.

    Raises: as reply(); the descriptor is left open.
    """
    text = bytearray()
    while not text.endswith(b"\n"):
        if (yield from _read(source, source.receive_line, text, deadline, what)):
            raise TailnetInternalError(f"the library ended without {what}")
    document = json.loads(text)
    if "error" in document:
        raise error_from_document(document["error"])
    return document["ok"]


_MOMENT = 0.01  # seconds between two looks at what somebody else waits for


class Lines:
    """A stream: one JSON object per line. Owns its descriptor; one reader at a time.

    The library's last line is a reply's: {"ok": null} where the stream has come to its end, and
    {"error": ...} where something ended it.
    """

    def __init__(self, fd: Fd) -> None:
        self._fd = fd
        self._lock = threading.RLock()  # of who closes the descriptor; a signal handler may close()
        self._text = bytearray()
        self._ended = False
        self._waiting = False
        self._closed = False

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits for the next line."""
        return self._waiting

    def comes_on(self, thing: object) -> bool:
        """Report whether it is the descriptor of this stream."""
        return thing is self._fd

    def next(self, deadline: float | None, what: str) -> Steps[Any]:
        """Return the next object, or None at the end of the stream.

        Raises:
            TailnetError: what ended the stream, once; then None follows. The node's close is the
                stream's own end.
            TailnetTimeout: the deadline passed. The stream can be read on.
            RuntimeError: somebody else waits in it already.
        """
        with self._lock:
            if self._waiting:
                raise RuntimeError(f"another thread or task is already waiting for {what}")
            self._waiting = True
        try:
            while (end := self._text.find(b"\n")) < 0:
                if self._ended:
                    return None
                read = _read(self._fd, self._fd.receive, self._text, deadline, what)
                self._ended = yield from read
            document = json.loads(self._text[:end])
            del self._text[: end + 1]
            if "error" not in document and "ok" not in document:
                return document
            self._ended = True
            error = error_from_document(document["error"]) if "error" in document else None
            # A node that is closed ends its streams, one that it has not begun yet, too.
            if error is None or isinstance(error, TailnetClosed):
                return None
            raise error
        finally:
            with self._lock:
                self._waiting = False
                if self._closed or self._ended:  # closed meanwhile, and given up before the end
                    self._ended = True
                    self._fd.close()

    def __repr__(self) -> str:
        return "closed" if self._closed or self._ended else "open"

    def close(self) -> None:
        """End the stream. Whoever waits gets what had arrived, then None. Idempotent."""
        with self._lock:
            self._closed = True
            self._fd.shutdown()
            # Not under somebody who waits: an event loop would never hear of a closed descriptor.
            # The shutdown wakes him, and he closes it.
            if not self._waiting:
                self._ended = True
                self._fd.close()


class Session:
    """Something that has begun and lasts until it is ended, or ends by itself. Owns its descriptor.

    After the answer come events, if any, and at last a line that says how it ended.
    """

    def __init__(self, fd: Fd) -> None:
        self._fd = fd
        self._lines = Lines(fd)

    def wait(self, deadline: float | None, what: str) -> Steps[None]:
        """Wait until it has ended by itself.

        Raises:
            TailnetError: what ended it, once.
            TailnetTimeout: the deadline passed. It goes on.
        """
        while (yield from self._lines.next(deadline, what)) is not None:
            pass

    def end(self, deadline: float | None, what: str) -> Steps[None]:
        """End it, and wait until it has. Idempotent.

        Raises:
            TailnetError: what went wrong since it began.
            TailnetTimeout: the deadline passed. It ends in the background.
        """
        try:
            self._fd.finish()
            # One alone can wait on a descriptor. Who waits already hears of the end.
            while self._lines.waited_for and (yield from sleep(_MOMENT, deadline)):
                pass
            yield from self.wait(deadline, what)
        finally:
            self._lines.close()

    def __repr__(self) -> str:
        return repr(self._lines)


def _read(
    source: Fd, receive: Callable[[], bytes], text: bytearray, deadline: float | None, what: str
) -> Steps[bool]:
    """Wait for more, append it to `text`, and return True at EOF."""
    if not (yield Wait(source.fileno(), deadline)):
        raise TailnetTimeout(f"timed out waiting for {what}")
    try:
        data = receive()
    except BlockingIOError:
        return False
    text += data
    return not data
