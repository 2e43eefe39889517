"""The library's log lines, passed on to `logging.getLogger("tailnet")`.

Rules of this file:

- One thread reads, and only while this process has a node. It is a daemon: a handler of the
  user's that blocks must not keep the program from ending.
- The library drops lines rather than wait for a slow handler, and says how many.
- Keys are taken out of every line before it leaves the library.
"""

from __future__ import annotations

import logging
import threading

from .._text import printable
from . import lib, ops, wait

log = logging.getLogger("tailnet")

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class _Reader:
    def __init__(self) -> None:
        # One that its holder may take again: a node that is forgotten may be collected, and so
        # release, in the middle of a retain.
        self._lock = threading.RLock()
        self._nodes = 0
        self._lines: ops.Lines | None = None

    def retain(self) -> None:
        """Read while there is a node: called once for each."""
        with self._lock:
            self._nodes += 1
            if self._lines is None:
                self._lines = ops.Lines(lib.logs())
                threading.Thread(
                    target=_pass_on, args=[self._lines], name="tailnet-log", daemon=True
                ).start()

    def release(self) -> None:
        """Stop with the last node. Never waits."""
        with self._lock:
            self._nodes -= 1
            if self._nodes == 0 and self._lines is not None:
                self._lines.close()
                self._lines = None

    def reads(self, thing: object) -> bool:
        """Report whether it is what the log lines come on."""
        return self._lines is not None and self._lines.comes_on(thing)


def _pass_on(lines: ops.Lines) -> None:
    while (line := wait.wait(lines.next(None, "a log line"))) is not None:
        if "lost" in line:
            log.warning("%d log lines were dropped: the handlers are too slow", line["lost"])
        else:
            node, message = printable(line["node"]), printable(line["message"])
            log.log(_LEVELS[line["level"]], "[%s] %s", node, message)


reader = _Reader()
