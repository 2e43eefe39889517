"""What a test leaves open: nodes, listeners, connections and their descriptors.

Rules of this file:

- By default only what is of the tailnet counts, known by what the kernel says of a descriptor: an
  event loop, a database pool or a log file that another plugin opens lazily is no leak. Mode "fds"
  counts every descriptor.
- A connection without a descriptor here does not count: it waits in a listener's queue, or its
  other end is elsewhere.
- What nobody holds any more, and was not closed, counts too: Python closes it, but only when the
  last reference happens to go. That is the case of a ResourceWarning.
- What is left of a node is closed here, so that it is not the next test's failure as well.
- Closing goes on in the background for a moment. It is waited for, only where something is open.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import socket
import stat
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Literal, cast

from .. import _lib, _logs, _node
from .._fd import Fd
from .._node import LocalNode
from .._socket import TcpLike, parse_peer_name
from .._wait import wait

Mode = Literal["tailnet", "fds", "off"]

HELD_TIMEOUT = 0.5  # for what somebody still holds: a thread of a service, about to close it
SETTLE_TIMEOUT = 5.0  # seconds; it takes milliseconds, and a loaded machine takes its time

_FDS = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"

_Identity = tuple[int, int, int]  # device, inode and mode


class Held:
    """What this process holds now."""

    def __init__(self) -> None:
        self.nodes = weakref.WeakSet(_node._live)
        self.fds = _descriptors()


class LeakCheck:
    """Says what is open that was not when this was made."""

    def __init__(self, mode: Mode) -> None:
        if mode == "fds":
            _warm_up()
        self._mode: Mode = mode
        self._forgotten: list[str] = []
        self._before = Held()
        self._put_back = [_note(LocalNode, self._forget_node), _note(TcpLike, self._forget_socket)]

    @contextlib.contextmanager
    def forgiving(self) -> Generator[None]:
        """Count for this test nothing that is opened inside: it is closed by something wider."""
        before = Held()
        yield
        after = Held()
        self._before.nodes |= after.nodes - before.nodes
        self._before.fds.update({k: v for k, v in after.fds.items() if before.fds.get(k) != v})

    def forgotten(self) -> list[str]:
        """Return what was forgotten since the last time."""
        said, self._forgotten = self._forgotten, []
        return said

    def finish(self, *, judge: bool) -> list[str]:
        """Close the nodes that are left and, to judge, return all that is, after a moment."""
        try:
            left = self._close_nodes()
            if not judge or not self._descriptors():
                return self.forgotten() + left
            with warnings.catch_warnings():  # this test's; the next one is not to blame
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()  # what hangs in a cycle is forgotten, too
            began = time.monotonic()
            pause = threading.Event()
            while fds := self._descriptors():
                held = any(isinstance(_owner(fd), TcpLike) for fd in fds)
                if time.monotonic() - began > (HELD_TIMEOUT if held else SETTLE_TIMEOUT):
                    break
                pause.wait(0.005)
            return self.forgotten() + left + [f"fd {fd} -> {what}" for fd, what in fds.items()]
        finally:
            self.close()

    def close(self) -> None:
        """Look no more. Idempotent."""
        while self._put_back:
            self._put_back.pop()()

    def _close_nodes(self) -> list[str]:
        """Close the nodes that are left, and say which had joined; what failed to join may stay."""
        nodes = [node for node in list(_node._live) if node not in self._before.nodes]
        left = [f"node {node.name!r} ({node!r})" for node in nodes if node.joined]
        for node in nodes:
            wait(node.close(0.0))
        return left

    def _descriptors(self) -> dict[int, str]:
        """Say which descriptors there are that were not there before, and count."""
        return {
            fd: what
            for fd, identity in _descriptors().items()
            if self._before.fds.get(fd) != identity and (what := _describe(fd, self._mode))
        }

    def _forget_node(self, node: Any) -> None:
        if node._handle and node.joined and _lib.usable() and node not in self._before.nodes:
            self._forgotten.append(f"node {node.name!r} ({node!r}; nobody holds it any more)")

    def _forget_socket(self, sock: Any) -> None:
        fd = sock.fileno()
        if fd >= 0 and self._before.fds.get(fd) != _identity(fd):
            self._forgotten.append(f"fd {fd} -> {_target(fd)} ({sock!r}; nobody holds it any more)")


@functools.cache
def _warm_up() -> None:
    """Have the library open what it opens once per process, and never closes."""
    from ._testnet import Testnet

    with Testnet() as net, net.tailnet("first"):
        pass


def _note(kind: type, noting: Callable[[Any], None]) -> Callable[[], None]:
    """Have `noting` called when an object of a class is dropped; return what undoes that."""
    own = vars(kind).get("__del__")
    inherited: Callable[[Any], None] = getattr(kind, "__del__", lambda _: None)

    def dropped(self: Any) -> None:
        with contextlib.suppress(AttributeError):  # its __init__ failed
            noting(self)
        inherited(self)

    type.__setattr__(kind, "__del__", dropped)

    def undo() -> None:
        if own is None:
            type.__delattr__(kind, "__del__")
        else:
            type.__setattr__(kind, "__del__", own)

    return undo


def _descriptors() -> dict[int, _Identity]:
    """Return the open descriptors of this process, and what tells each from a later one."""
    found: dict[int, _Identity] = {}
    for name in os.listdir(_FDS):  # noqa: PTH208 - only the numbers
        with contextlib.suppress(OSError):  # the one that reads the directory
            found[int(name)] = _identity(int(name))
    return found


def _identity(fd: int) -> _Identity:
    about = os.fstat(fd)
    return about.st_dev, about.st_ino, about.st_mode


def _describe(fd: int, mode: Mode) -> str:
    """Say what a descriptor is, or "" where it does not count."""
    of_tailnet = _is_of_tailnet(fd)
    if of_tailnet is False and mode != "fds":
        return ""
    owner = _owner(fd)
    if _logs.reader._lines is not None and owner is _logs.reader._lines._fd:
        return ""  # the library's own, as long as any node is there
    if isinstance(owner, Fd):  # the streams of the library have no name to know them by
        return f"{_target(fd)} (a watch, or an operation that goes on)"
    if of_tailnet is not True and mode != "fds":
        return ""
    target = _target(fd)
    return f"{target} ({owner!r})" if owner is not None and target else target


def _target(fd: int) -> str:
    """Return what a descriptor refers to, or "" if it is closed."""
    with contextlib.suppress(OSError):
        if sys.platform == "linux":
            return str(Path(_FDS, str(fd)).readlink())
        else:  # noqa: RET505 - mypy understands that
            return f"{stat.filemode(os.fstat(fd).st_mode)[0]}:[{os.fstat(fd).st_ino}]"
    return ""


def _is_of_tailnet(fd: int) -> bool | None:
    """Report whether Python's end of a listener or of a connection is there; None: cannot tell."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return False
        with socket.socket(fileno=os.dup(fd)) as sock:
            if sock.family != socket.AF_UNIX:
                return False
            own = sock.getsockname()
            with contextlib.suppress(OSError):  # not connected
                peer = sock.getpeername()
                if parse_peer_name(peer) is not None:
                    return True
                if not own and not peer:
                    return None
    except OSError:
        return False
    # As _listener.py makes them. The library's own ends are named otherwise.
    return isinstance(own, str) and own.endswith("/listener") and "/tailnet-" in own


def _owner(fd: int) -> object:
    """Return the object that has a descriptor, or None."""
    for each in gc.get_objects():
        # Not isinstance: it would ask a lazy proxy of somebody's for its class, and wake it.
        if issubclass(type(each), (socket.socket, Fd)):
            with contextlib.suppress(Exception):  # its __init__ failed
                if each.fileno() == fd:
                    return cast("object", each)
    return None
