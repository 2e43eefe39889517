"""What this process holds, and whether a test leaves something behind."""

from __future__ import annotations

import contextlib
import gc
import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailnet._engine import lib
from tests.support.waiting import eventually

TASKS = Path("/proc/self/task")


FDS = Path("/proc/self/fd" if TASKS.exists() else "/dev/fd")


class Held:
    """What this process holds: descriptors, threads of Python and all, what the library counts."""

    def __init__(self) -> None:
        gc.collect()
        stats = lib.stats()  # first: it may load the library, which opens descriptors
        self.files = dict(map(opened, FDS.iterdir()))
        self.fds = len(self.files)
        self.threads = threading.active_count()
        self.tasks = len(list(TASKS.iterdir())) if TASKS.exists() else 0
        self.nodes = stats["nodes"]
        self.listeners = stats["listeners"]
        self.connections = stats["connections"]
        self.own_goroutines = stats["own_goroutines"]
        self.goroutines = stats["goroutines"]

    def exceeds(self, before: Held, goroutines: float) -> str:
        """Say what there is more of than before, or ""."""
        slack = {"goroutines": goroutines, "tasks": goroutines / 3}
        more = [
            f"{getattr(before, name)} {name} became {value}"
            for name, value in vars(self).items()
            if name != "files" and value > getattr(before, name) + slack.get(name, 0)
        ]
        if self.fds > before.fds:
            more += (f"{fd} is {what}" for fd, what in self.files.items() - before.files.items())
        return ", ".join(more)


def opened(fd: Path) -> tuple[str, str]:
    """Return the number of a descriptor and what it is."""
    try:
        return fd.name, str(fd.readlink())
    except OSError:  # that of the directory itself; macOS has no links there
        return fd.name, "?"


@contextlib.contextmanager
def nothing_left(goroutines: float = math.inf) -> Iterator[None]:
    """Fail unless all that is held afterwards was held before.

    Tailscale's own goroutines come and go as it likes (a path to a peer is looked for anew), and
    Go keeps the threads it has needed, so only a test that does something very often can say how
    many may be left.
    """
    before = Held()
    yield
    left = ""

    def back() -> bool:
        nonlocal left
        left = Held().exceeds(before, goroutines)
        return not left

    try:
        eventually("everything is given back", back)
    except pytest.fail.Exception:
        pytest.fail("something is left: " + re.sub(r"socket:.(\d+).", named, left))


def named(socket: re.Match[str]) -> str:
    """Say what a socket is, where the kernel does."""
    for table in ("tcp", "tcp6", "udp", "udp6", "unix", "netlink"):
        for line in Path("/proc/net", table).read_text("ascii", "replace").splitlines():
            if socket[1] in line.split():
                return f"{table} {line}"
    return socket[0]
