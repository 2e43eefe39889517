"""Who owns a descriptor of the library.

Rules of this file:

- One `Fd` owns one descriptor: it is closed once, and its number is forgotten before the close,
  because numbers are used again at once (`socket.socket` does both).
- Cancelling shuts down first. A shutdown reaches the other end even while a forked child holds a
  copy of the descriptor; a close alone would not.
- Only the process that made the call may cancel. A forked child merely closes its copy, or it
  would end an operation of its parent.

What is read from it is in ops.py; how to wait for it in wait.py.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from typing import Any, Protocol

from . import held

_RECEIVE = socket.socket.recv  # the kernel's, even if gevent or eventlet patches it later

CHUNK = 64 << 10  # one read; most documents need no second


class _Plain(socket.socket):
    def __init__(self, fileno: int) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno)


class _Answer(Protocol):
    """A `tailnet_answer`."""

    fd: int


class Fd:
    """Python's end of a reply or a stream."""

    __slots__ = ("__weakref__", "_how", "_kind", "_owner", "_socket")

    def __init__(self, kind: type[socket.socket] = _Plain, **how: Any) -> None:
        """Own nothing yet. A `kind(fileno, **how)` is made of the descriptor that comes."""
        self._socket: socket.socket | None = None  # first: __del__ looks for it
        self._kind: Any = kind
        self._how = how
        self._owner = os.getpid()
        held.add(self)

    def adopt(self, answer: _Answer) -> None:
        """Take ownership of the descriptor in an answer, if there still is one.

        It may be called again after an interrupt, and then ends what it had begun.
        """
        # The socket is ours before it has the number, and says whether it has: so an interrupt
        # neither loses the descriptor nor makes two owners of it.
        if answer.fd < 0:
            return
        made: Any = self._socket
        if made is None:
            self._socket = made = self._kind.__new__(self._kind)
        if made.fileno() < 0:
            made.__init__(answer.fd, **self._how)
        answer.fd = -1
        made.setblocking(False)

    def __del__(self) -> None:
        # Nothing to warn about: what is behind it ends with the close, in the right process.
        self.close()

    def fileno(self) -> int:
        """Return the descriptor's number, or -1 once closed."""
        return self._socket.fileno() if self._socket is not None else -1

    @property
    def made(self) -> Any:
        """What was made of the descriptor."""
        return self._socket

    def release(self) -> Any:
        """Return what was made of the descriptor, and give up owning it."""
        made, self._socket = self._socket, None
        return made

    def receive_line(self) -> bytes:
        """Read what is there, up to and with a newline; nothing, at the end.

        Raises:
            BlockingIOError: nothing is there yet.
        """
        if self._socket is None:
            return b""
        receive: Any = functools.partial(_RECEIVE, self._socket)  # not an override
        seen = receive(CHUNK, socket.MSG_PEEK)
        return receive(seen.find(b"\n") + 1 or len(seen)) if seen else b""

    def receive(self) -> bytes:
        """Read what is there; nothing, at the end.

        Raises:
            BlockingIOError: nothing is there yet.
        """
        if self._socket is None:
            return b""
        return self._socket.recv(CHUNK)

    def shutdown(self) -> None:
        """End the operation or stream behind it, and wake whoever waits; keep the descriptor.

        What had arrived before can still be read, and then comes EOF.
        """
        if self._socket is not None and os.getpid() == self._owner:
            with contextlib.suppress(OSError):  # closed, or the other end has gone
                self._socket.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        """End the session behind it; what it says of its end can still be read."""
        if self._socket is not None and os.getpid() == self._owner:
            with contextlib.suppress(OSError):  # closed, or the other end has gone
                self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close this process's copy. Idempotent."""
        if self._socket is not None:
            self._socket.close()

    def cancel(self) -> None:
        """End what is behind the descriptor and close it. Idempotent."""
        self.shutdown()
        self.close()
