"""Open the files that a user names: configurations, files that hold a key, and new ones.

Opening a FIFO waits for a writer, and stops an event loop meanwhile; reading /dev/zero never ends.
So the files are opened without blocking, and only regular files of a sane size are read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Generator
from pathlib import Path
from typing import cast

from .._text import quoted
from ..errors import TailnetConfigError

# Bytes. A key is one line; a configuration has some twenty.
KEY_LIMIT = 16 << 10
CONFIG_LIMIT = 1 << 20

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def read_text(path: Path, limit: int, source: str = "", help_: str = "") -> str:
    """Return the text of a regular file of at most `limit` bytes. Never waits for a writer.

    Args:
        path: The file; symbolic links are followed.
        limit: The most bytes it may have.
        source: What named the file, such as a field; an error begins with it.
        help_: What to do where this user cannot read it.

    Raises:
        TailnetConfigError: it cannot be read; names the path, and quotes nothing from the file.
    """
    said = f"{source}: " if source else ""
    text: str | None = None
    problem = ""
    try:
        text = _read(path, limit).decode("utf-8-sig")  # some editors write a BOM
    except OSError as e:
        problem = f"cannot read {path}: {e.strerror}{'; ' if help_ else ''}{help_}"
    except UnicodeDecodeError:
        problem = f"{path} is not text in UTF-8"
    except ValueError as e:  # ours, or that of a path that the system cannot have
        problem = f"cannot read {path}: {e}"
    if text is None:  # outside the except: UnicodeDecodeError holds what was read
        raise TailnetConfigError(said + problem)
    return text


@contextlib.contextmanager
def new_file(path: object, source: str) -> Generator[int]:
    """Yield the descriptor of an empty regular file. A new one is for this user alone.

    Args:
        path: The file; symbolic links are followed.
        source: What named the file, such as a method; an error begins with it.

    Raises:
        OSError: it cannot be opened.
        TailnetConfigError: it is no path, or another kind of file.
    """
    try:
        name = Path(cast("str", path))
    except TypeError:
        raise TailnetConfigError(f"{source}: want a path, and not {quoted(path)}") from None
    flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        with contextlib.suppress(FileNotFoundError):  # as of _read
            _check(Path(name).stat(), sys.maxsize)
        fd = os.open(name, flags, 0o600)
    except ValueError as e:
        raise TailnetConfigError(f"{source}: cannot write to {quoted(name)}: {e}") from None
    try:
        os.truncate(fd, 0)
        yield fd
    finally:
        os.close(fd)


def _read(path: Path, limit: int) -> bytes:
    # Before it is opened as well: opening some devices does something (a watchdog, a tape).
    _check(path.stat(), limit)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with contextlib.closing(os.fdopen(fd, "rb", buffering=0)) as file:
        _check(os.fstat(fd), limit)
        content = bytearray()  # files of /proc say that they are empty
        while len(content) <= limit and (part := file.read(limit + 1 - len(content))):
            content += part
    if len(content) > limit:
        raise ValueError(_too_large(limit))
    return bytes(content)


def _check(found: os.stat_result, limit: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "of an unknown kind")
        raise ValueError(f"it is {kind}, and not a regular file")
    if found.st_size > limit:
        raise ValueError(_too_large(limit))


def _too_large(limit: int) -> str:
    return f"it has more than {limit >> 10} KiB"
