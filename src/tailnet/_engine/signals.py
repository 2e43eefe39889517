"""Leaving on a signal: `graceful()` makes SIGTERM do what Ctrl-C does.

Rules of this file:

- A stop request runs the program's own SIGINT handler. asyncio, uvloop and trio install one that
  interrupts a program only where it can be interrupted, so nothing here needs to know about them.
- Nothing is installed by an import or by a node: the program asks, in its main thread, and gets
  its former handlers back.
- A forked child has its parent's handlers until it installs its own. There the former ones act.

How a node leaves: _node/node.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Generator
from types import FrameType
from typing import Any

__all__ = ["graceful"]

# A stop request can arrive twice at nearly the same time: timeout(1) and some supervisors signal
# the process and then its group, and uvicorn raises again each signal it received. Only a signal
# that comes later than this after the first one means that somebody lost patience.
_SAME_REQUEST = 1.0


@contextlib.contextmanager
def graceful(*signals: int) -> Generator[None]:
    """Leave all `with` blocks when SIGTERM arrives, as Ctrl-C does, so that nodes close in order.

    Put it around everything, or decorate the main function with it:

        with tailnet.graceful(), Tailnet(config) as tn:
            server.run(sockets=[tn.listen(":80")])

    The signal raises KeyboardInterrupt in the main thread. Under asyncio it cancels the main task
    instead, as Ctrl-C does since Python 3.11. A program with a SIGINT handler of its own has that
    handler called. When the block has been left, the former signal handlers are back and
    `SystemExit(128 + signal)` ends the program, with 143 for SIGTERM: the status that shells and
    containers report for a process that the signal killed. An error raised while leaving is
    raised on instead.

    Servers that handle SIGTERM themselves go on doing so. uvicorn finishes its responses and
    raises the signal again, which then leaves the block. After gunicorn and hypercorn, which
    return, the program ends with their status.

    A second signal, more than a second after the first one, kills the process at once.

    Args:
        signals: The signals to leave on; SIGTERM without any. SIGINT needs no help.

    Raises:
        RuntimeError: this is not the main thread, the only one in which Python handles signals.
            Also where C code, such as a debugger's, handles one of the signals.
        ValueError: a signal cannot be handled, or is SIGINT.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "graceful(): Python handles signals in the main thread only; enter it there, around "
            "what starts and joins this thread"
        )
    request = _Request()
    try:
        for signum in signals or (signal.SIGTERM,):
            request.take(signum)
        yield
    except BaseException as e:
        if not (request.signum and _is_interrupt(e)):
            raise
    finally:
        request.give_back()
    if request.signum:
        raise SystemExit(128 + request.signum)


class _Request:
    """The handler of the signals, and the former handlers."""

    def __init__(self) -> None:
        self.signum = 0  # the one that arrived
        self._since = 0.0
        self._owner = os.getpid()
        self._former: dict[int, Any] = {}

    def take(self, signum: int) -> None:
        """Handle a signal from now on."""
        if signum == signal.SIGINT:
            raise ValueError("graceful(): SIGINT raises KeyboardInterrupt by itself; leave it out")
        try:
            former = signal.getsignal(signum)
            if former is None:
                raise RuntimeError(
                    f"graceful(): {signal.Signals(signum).name} is handled by C code, whose handler"
                    " Python cannot put back"
                )
            signal.signal(signum, self)
        except (OSError, ValueError) as e:
            raise ValueError(f"graceful(): signal {signum!r} cannot be handled: {e}") from e
        self._former.setdefault(signum, former)

    def give_back(self) -> None:
        """Put the former handlers back."""
        for signum, former in self._former.items():
            signal.signal(signum, former)

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            signal.signal(signum, self._former[signum])
            signal.raise_signal(signum)
        elif not self.signum:
            self.signum, self._since = signum, time.monotonic()
            interrupt = signal.getsignal(signal.SIGINT)
            if callable(interrupt):
                interrupt(signal.SIGINT, frame)
            else:  # ignored, as in what a shell script starts with "&"
                raise KeyboardInterrupt
        elif time.monotonic() - self._since > _SAME_REQUEST:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
            os._exit(128 + signum)  # the first process of a container survives a default action


def _is_interrupt(error: BaseException) -> bool:
    """Report whether an exception only says that the program was interrupted.

    KeyboardInterrupt, the CancelledError of asyncio, and a group of such from trio or anyio.
    """
    members: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    if members:
        return all(map(_is_interrupt, members))
    return not isinstance(error, (Exception, SystemExit))
