"""What the machine is and does: how idle it is, and what a process and its children take of it.

All of it is read from /proc, on Linux.

Read next: contenders.py.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

BUSY = 0.05  # of all processors, by others: beyond, figures are marked as disturbed


class Ticks(NamedTuple):
    """What all processors have done, in seconds since boot."""

    busy: float
    stolen: float  # by the machine beneath
    all: float


def ticks() -> Ticks:
    """Return it."""
    fields = Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()[1:9]
    user, nice, system, idle, wait, irq, soft, steal = (int(field) / TICK for field in fields)
    busy = user + nice + system + irq + soft
    return Ticks(busy, steal, busy + steal + idle + wait)


class Usage(NamedTuple):
    """What processes take: CPU in seconds, memory in MiB, threads."""

    cpu: float = 0.0
    rss: float = 0.0
    threads: int = 0

    def __add__(self, other: tuple[Any, ...]) -> Usage:
        return Usage(*(a + b for a, b in zip(self, other, strict=True)))


def _stat(pid: int) -> list[str]:
    """Return the fields of a process from its state on; [] where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def family(pids: Iterable[int]) -> set[int]:
    """Return processes and all that descend from them."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    left = list(pids)
    while left:
        pid = left.pop()
        if pid not in found:
            found.add(pid)
            left += parents.get(pid, [])
    return found


def usage(pids: Iterable[int]) -> Usage:
    """Return what processes take; of children that have ended, too."""
    total = Usage()
    for pid in pids:
        if fields := _stat(pid):
            cpu = sum(int(field) for field in fields[11:15]) / TICK
            total += Usage(cpu, int(fields[21]) * PAGE / 2**20, int(fields[17]))
    return total


class Watch:
    """What the rest of the machine does meanwhile: others than this process and what it starts."""

    def __init__(self) -> None:
        self._start, self._own = ticks(), self._ours()

    @staticmethod
    def _ours() -> float:
        return usage(family([os.getpid()])).cpu

    def others(self) -> float:
        """Return the share of all processors that others had, since this was made."""
        now = ticks()
        spent = now.all - self._start.all
        foreign = now.busy - self._start.busy - (self._ours() - self._own)
        foreign += now.stolen - self._start.stolen
        return max(foreign, 0.0) / spent if spent else 0.0


def idle_check(seconds: float = 2.0) -> float:
    """Return the share of all processors that others have, watched for some seconds."""
    watch = Watch()
    time.sleep(seconds)
    return watch.others()


def open_files() -> int:
    """Let this process and its children open as many files as they may; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (1 << 17, hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
        except (ValueError, OSError):
            continue
        return wanted
    return soft


def _words(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def describe() -> dict[str, Any]:
    """Return what the figures depend on."""
    from tailnet._engine import lib

    cpus = Path("/proc/cpuinfo").read_text("utf-8").split("\n")
    model = next((line.partition(": ")[2] for line in cpus if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PHYS_PAGES") * PAGE / 2**30
    changed = _words("git", "status", "--porcelain", "--untracked-files=no")
    limits = {}
    for name in ("net/core/rmem_max", "net/core/wmem_max", "net/core/wmem_default"):
        limits[name.replace("/", ".")] = int(Path("/proc/sys", name).read_text("ascii"))
    return {
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": _words("git", "rev-parse", "--short=12", "HEAD") + ("+" if changed else ""),
        "processors": f"{os.cpu_count()} x {model}",
        "memory_gib": round(memory, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **lib.versions(),
        **limits,
    }
