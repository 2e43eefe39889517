"""What a test leaves open: nodes, listeners, connections and their descriptors.

Rules of this file:

- By default only what is of the tailnet counts, known by what the kernel says of a descriptor: an
  event loop, a database pool or a log file that another plugin opens lazily is no leak. Mode "fds"
  counts every descriptor.
- A connection without a descriptor here does not count: it waits in a listener's queue, or its
  other end is elsewhere.
- What was not closed before its last reference went counts too: Python closes it, but only when
  that happens. It is the case of a ResourceWarning.
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
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal, cast

from .._engine import held, logs
from .._engine.fd import Fd
from .._engine.wait import wait
from .._node.node import LocalNode
from .._sockets.connection import TcpLike, parse_peer_name

Mode = Literal["tailnet", "fds", "off"]

HELD_TIMEOUT = 0.5  # for what somebody still holds: a thread of a service, about to close it
SETTLE_TIMEOUT = 5.0  # seconds; it takes milliseconds, and a loaded machine takes its time

_FDS = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"

_Identity = tuple[int, int, int]  # device, inode and mode


class Held:
    """What this process holds now."""

    def __init__(self) -> None:
        self.nodes = weakref.WeakSet(held.all_of(LocalNode))
        self.fds = _descriptors()


class LeakCheck:
    """Says what is open that was not when this was made."""

    def __init__(self, mode: Mode) -> None:
        if mode == "fds":
            _warm_up()
        self._mode: Mode = mode
        self._forgotten: list[str] = []
        self._before = Held()
        self._hearing = contextlib.ExitStack()
        self._hearing.enter_context(held.hearing(self._hear))

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
                owned = any(isinstance(_owner(fd), TcpLike) for fd in fds)
                if time.monotonic() - began > (HELD_TIMEOUT if owned else SETTLE_TIMEOUT):
                    break
                pause.wait(0.005)
            return self.forgotten() + left + [f"fd {fd} -> {what}" for fd, what in fds.items()]
        finally:
            self.close()

    def close(self) -> None:
        """Stop looking. Idempotent."""
        self._hearing.close()

    def _close_nodes(self) -> list[str]:
        """Close the nodes that are left, and say which had joined; what failed to join may stay."""
        nodes = [each for each in held.all_of(LocalNode) if each not in self._before.nodes]
        nodes = [node for node in nodes if node.is_open]
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

    def _hear(self, thing: Any) -> None:
        """Note what is dropped while it is open."""
        if isinstance(thing, LocalNode):
            if thing.joined and thing not in self._before.nodes:
                self._forget(f"node {thing.name!r}", thing)
        elif isinstance(thing, TcpLike):
            fd = thing.fileno()
            if self._before.fds.get(fd) != _identity(fd):
                self._forget(f"fd {fd} -> {_target(fd)}", thing)

    def _forget(self, what: str, thing: object) -> None:
        self._forgotten.append(f"{what} ({thing!r}; it is no longer referenced)")


@functools.cache
def _warm_up() -> None:
    """Have the library open what it opens once per process, and never closes."""
    from ._testnet import Testnet

    with Testnet() as net, net.tailnet("first"):
        pass


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
    if logs.reader.reads(owner):
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
    # As _sockets/listener.py makes them. The library's own ends are named otherwise.
    return isinstance(own, str) and own.endswith("/listener") and "/tailnet-" in own


def _owner(fd: int) -> object:
    """Return the object that has a descriptor, or None."""
    for each in [*held.all_of(TcpLike), *held.all_of(Fd), *gc.get_objects()]:
        # Not isinstance: it would ask a lazy proxy of somebody's for its class, and wake it.
        if issubclass(type(each), (socket.socket, Fd)):
            with contextlib.suppress(Exception):  # its __init__ failed
                if each.fileno() == fd:
                    return cast("object", each)
    return None
