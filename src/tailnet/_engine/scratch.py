"""Private directories in the system's temporary one, and what dead programs left of theirs.

Rules of this file:

- A directory is locked (flock) by the process that made it for as long as it is used. Whoever finds
  one that nobody has locked may remove it: its program was killed.
- The library names and locks the directory of an ephemeral node in the same way
  (go/internal/state/scratch.go).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path

_PREFIX = "tailnet-scratch-"
# As tempfile.mkdtemp ends them, and Go's os.MkdirTemp: with a number of 32 bits, maybe a small one.
_OURS = re.compile(re.escape(_PREFIX) + r"(\w{8}|\d{1,10})")

# sun_path holds 108 bytes on Linux, 104 on macOS; the library adds nothing to the path.
_LONGEST_PATH = 100

# Between its making and its locking a directory looks like one left behind.
_YOUNG = 60.0


class Scratch:
    """A directory of mode 0700 whose path is short enough for a socket in it."""

    def __init__(self) -> None:
        parent = tempfile.gettempdir()
        if len(os.fsencode(parent)) + len(f"/{_PREFIX}xxxxxxxx/listener") > _LONGEST_PATH:
            parent = "/tmp"  # noqa: S108 - mkdtemp's directory is private, its name unguessable
        if parent.encode(errors="replace") != os.fsencode(parent):  # the library takes UTF-8 only
            parent = "/tmp"  # noqa: S108
        self.path = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
        self._lock = -1
        try:
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove it with what is in it. Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Give up this process's copy of the lock; a forked child does no more."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


@functools.cache  # once in a process
def sweep() -> None:
    """Remove what programs of this user that were killed have left."""
    for parent in {tempfile.gettempdir(), "/tmp"}:  # noqa: S108 - where they may be
        with contextlib.suppress(OSError), os.scandir(parent) as entries:
            for entry in entries:
                if _OURS.fullmatch(entry.name):
                    with contextlib.suppress(OSError):
                        _remove_if_left(Path(entry.path))


def _remove_if_left(path: Path) -> None:
    found = path.lstat()
    private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700
    if not private or found.st_uid != os.getuid() or time.time() - found.st_mtime < _YOUNG:
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(fd)
