"""What the tests of a tailscaled that runs share: a node of it, and programs beside it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailnet import Tailnet, TailnetConfig, TailnetHandle, models
from tests.support.daemon import Daemon
from tests.support.faces import Async, Face
from tests.support.waiting import WAIT, eventually

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

PORT = iter(range(3000, 9000))

LOAD = """
import os, pickle, socket, sys, time
from tailnet import *
from tailnet._engine import lib
from tailnet._sockets import handover
from tailnet.testing import Testnet
from tests.support.daemon import Daemon, LocalAPI
lib.stats()  # loads the library: the next user may not read where Python is
path, uid = sys.argv[1], int(sys.argv[2])
if uid:
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
def up(**fields):
    return Tailnet(backend="tailscaled", tailscaled_socket=path, **fields).up()
def attempt(call):
    began = time.monotonic()
    try:
        print(call(), flush=True)
    except TailnetError as e:
        print(type(e).__name__, e.retryable, time.monotonic() - began < 1.5, e, flush=True)
"""


@contextlib.contextmanager
def program(
    path: str, code: str, uid: int = 0, before: tuple[str, ...] = (), **env: str
) -> Iterator[subprocess.Popen[str]]:
    """Run a program of some user beside a daemon; it is killed at the end."""
    with subprocess.Popen(
        [*before, sys.executable, "-c", LOAD + textwrap.dedent(code), path, str(uid)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    """Return the next line of a program; a hang is the test's time limit."""
    assert process.stdout
    return process.stdout.readline().rstrip("\n")


def tell(process: subprocess.Popen[str]) -> None:
    """Let a program that reads a line go on."""
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def beside(daemon: Daemon | str, **fields: Any) -> Tailnet:
    """Return a node of a daemon, or of what there is at a path."""
    path = daemon if isinstance(daemon, str) else daemon.socket
    return Tailnet(backend="tailscaled", tailscaled_socket=path, **fields)


def config(daemon: Daemon, **fields: Any) -> TailnetConfig:
    """Return the configuration of a node of a daemon."""
    return TailnetConfig(backend="tailscaled", tailscaled_socket=daemon.socket, **fields)


def served(daemon: Daemon) -> dict[int, str]:
    """Return what the daemon forwards in the foreground: port to target."""
    blocks = (daemon.serve_config().get("Foreground") or {}).values()
    entries = [(block or {}).get("TCP") or {} for block in blocks]
    return {int(port): entry["TCPForward"] for each in entries for port, entry in each.items()}


def serving(daemon: Daemon) -> set[str]:
    """Return the sessions for which the daemon forwards something."""
    blocks: dict[str, Any] = daemon.serve_config().get("Foreground") or {}
    return {session for session, block in blocks.items() if (block or {}).get("TCP")}


def knows(daemon: Daemon, *others: TailnetHandle) -> None:
    """Wait until a daemon and others know each other."""
    ip = daemon.status()["TailscaleIPs"][0]
    for other in others:
        eventually("the daemon knows", lambda: str(other.ip) in str(daemon.status()["Peer"]))  # noqa: B023
        eventually("it is known", lambda: ip in str([p.ips for p in other.status().peers]))  # noqa: B023


def greet(peer: TailnetHandle, ip: object, port: int, listener: Any) -> None:
    """Make one connection that works."""
    with peer.dial((str(ip), port), timeout=WAIT) as near:
        listener.settimeout(WAIT)
        far, address = listener.accept()
        with far:
            assert address[0] == str(peer.ip)
            far.sendall(b"hello")
            assert near.recv(5, socket.MSG_WAITALL) == b"hello"


class States:
    """The states that watch() tells, on either face."""

    def __init__(self, face: Face, handle: Any) -> None:
        self._face, self._watch = face, handle.watch()

    def until(self, *wanted: str) -> list[str]:
        """Read until a state comes; return those before it too."""
        seen: list[str] = []
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:
            step = self._watch.next(WAIT)
            event = self._face.run(step) if isinstance(self._face, Async) else step
            if isinstance(event, models.StateChanged):
                seen.append(event.state)
                if event.state in wanted:
                    return seen
        pytest.fail(f"never {wanted}, but {seen}")

    def close(self) -> None:
        """End it."""
        self._watch.close()
