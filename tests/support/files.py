"""Files that are no regular files, or too large."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def fifo(path: Path) -> str:
    """Make a named pipe that nobody writes to."""
    os.mkfifo(path)
    return "it is a FIFO"


def zero(path: Path) -> str:
    """Make a link to what never ends."""
    path.symlink_to("/dev/zero")
    return "it is a character device"


def unix_socket(path: Path) -> str:
    """Make a socket that nobody listens at."""
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
    return "it is a socket"


def sparse(path: Path) -> str:
    """Make a file that says it has 1 GiB."""
    with path.open("wb") as file:
        file.truncate(1 << 30)
    return "it has more than"
