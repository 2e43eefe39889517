"""What the tests of a tailscaled that the library runs as its child share."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tailnet.testing import Testnet
from tests.support.daemon import binaries
from tests.support.held import nothing_left
from tests.support.programs import start
from tests.support.waiting import eventually

DIRECTORIES: set[Path] = set()  # of sockets that were there
HOW: dict[str, Any] = {"backend": "tailscaled", "tailscaled_managed": True}
JOIN = "tn = Tailnet(TailnetConfig.from_env(**{'hostname': 'program', **eval(os.environ['HOW'])}))"


def read(pid: int, what: str) -> str:
    """Read a file of /proc; that of who has gone is empty."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{what}").read_text()
    return ""


def daemons(parent: int | None = None, *, others: bool = False) -> set[int]:
    """Return which children of a process are tailscaled; with the others, and zombies too."""
    pids = {int(path.name) for path in Path("/proc").glob("[0-9]*")}
    ours = {
        n
        for n in pids
        if read(n, "stat").rpartition(")")[2].split()[1:2] == [str(parent or os.getpid())]
    }
    if others:
        return ours
    found = {n for n in ours if read(n, "cmdline").startswith(binaries()[0] + "\0")}
    DIRECTORIES.update(map(directory, found))
    return found


def directory(pid: int) -> Path:
    """Return where a daemon's socket is."""
    return Path(re.findall(r"--socket=([^\0]+)", read(pid, "cmdline"))[0]).parent


@contextlib.contextmanager
def no_child_left() -> Iterator[None]:
    """Fail where a process, or a directory of a socket, is there afterwards."""
    before = daemons(others=True)
    with nothing_left():
        yield
        eventually("no process is left", lambda: daemons(others=True) <= before)
    left = [path for path in DIRECTORIES if path.exists()]
    DIRECTORIES.clear()  # one test's fault is not the next one's
    assert not left


@contextlib.contextmanager
def managed(face: Any, net: Testnet, name: str, **fields: Any) -> Iterator[Any]:
    """Yield a Tailnet that has not joined, and close it."""
    if fields.get("backend") != "embedded":
        fields = {**HOW, "tailscaled_path": binaries()[0], **fields}
    tailnet: Any = face.tailnet(net.config(name, **fields))
    try:
        yield tailnet
        daemons()
    finally:
        face.leave(tailnet)


def script(path: Path, *lines: str, mode: int = 0o755) -> Path:
    """Write a program that takes tailscaled's place."""
    path.write_text("\n".join(lines))
    path.chmod(mode)
    return path


def program(net: Testnet, *lines: str, how: str = "", **env: str) -> subprocess.Popen[str]:
    """Start one that makes a Tailnet `tn`, which has not joined."""
    fields = str({**HOW, **({} if how else {"tailscaled_path": binaries()[0]})})
    quiet = "__import__('warnings').simplefilter('ignore', DeprecationWarning)"  # of fork
    return start(net, "\n".join([quiet, JOIN, *lines]), HOW=how or fields, **env)
