"""Who owns a descriptor of the library.

Rules of this file:

- One `Fd` owns one descriptor: it is closed once, and its number is forgotten before the close,
  because numbers are used again at once (`socket.socket` does both).
- Cancelling shuts down first. A shutdown reaches the other end even while a forked child holds a
  copy of the descriptor; a close alone would not.
- Only the process that made the call may cancel. A forked child merely closes its copy, or it
  would end an operation of its parent.

What is read from it is in _ops.py; how to wait for it in _wait.py.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket

_INT = array.array("i").itemsize
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # macOS has none
CHUNK = 64 << 10  # one read; most documents need no second


class Fd:
    """Python's end of a reply or a stream. Takes ownership of `fd`."""

    __slots__ = ("_owner", "_socket")

    def __init__(self, fd: int) -> None:
        self._owner = os.getpid()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)
        self._socket.setblocking(False)

    def __del__(self) -> None:
        # Nothing to warn about: what is behind it ends with the close, in the right process.
        if hasattr(self, "_socket"):
            self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor's number, or -1 once closed."""
        return self._socket.fileno()

    def receive(self) -> tuple[bytes, list[int]]:
        """Read what is there, with the descriptors that ride on it; they are the caller's.

        Raises:
            BlockingIOError: nothing is there yet.
        """
        data, ancillary, _, _ = self._socket.recvmsg(CHUNK, socket.CMSG_SPACE(_INT), _CLOEXEC)
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(payload[: len(payload) - len(payload) % _INT])
        if not _CLOEXEC:
            for fd in fds:
                os.set_inheritable(fd, False)
        return data, list(fds)

    def shutdown(self) -> None:
        """End the operation or stream behind it, and wake whoever waits; keep the descriptor.

        What had arrived before can still be read, and then comes EOF.
        """
        if os.getpid() == self._owner:
            with contextlib.suppress(OSError):  # closed, or the other end has gone
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this process's copy. Idempotent."""
        self._socket.close()

    def cancel(self) -> None:
        """End what is behind the descriptor and close it. Idempotent."""
        self.shutdown()
        self.close()
