"""A peer that asks for connections and ignores the answers: it harms nobody else."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import build_go
from tailnet import TailnetHandle, TailnetRefused
from tailnet._engine import lib
from tailnet.testing import Testnet
from tests.support.waiting import eventually

SYNS = 8400
SHARE = 1024  # of half-open connections, for one node: half of what there may be
OPEN, CLOSED = 80, 81
PROMPT = 1.0  # seconds: a dial whose SYN was dropped takes longer


class Flood:
    """A plain tsnet node in a process of its own, go/internal/flood."""

    def __init__(self, net: Testnet) -> None:
        argv = [build(), "-control", net.url, "-key", net.auth_key]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._await("ready")

    def send(self, target: TailnetHandle, port: int, count: int) -> None:
        """Send SYNs to both addresses of a node, and return when all are sent."""
        assert self.process.stdin
        ip4, ip6 = sorted(target.ips, key=lambda ip: ip.version)
        self.process.stdin.write(f"{ip4} {ip6} {port} {count}\n")
        self.process.stdin.flush()
        self._await("sent")

    def _await(self, word: str) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline() == word + "\n"

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


def build() -> str:
    """Build the program, if need be; return its path."""
    programs = build_go.ROOT / "build" / "programs"
    programs.mkdir(parents=True, exist_ok=True)
    with (programs / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return str(build_go.build_program("./internal/flood", programs / "flood"))


@pytest.fixture(scope="module")
def flood(net: Testnet, service: TailnetHandle) -> Iterator[Flood]:
    """The peer, whose path to the service is known."""
    with contextlib.closing(Flood(net)) as each:

        def arrive() -> bool:  # the first ones are lost while the two nodes get to know each other
            each.send(service, OPEN, 2)
            return half_open() > SHARE / 4

        eventually("its SYNs arrive", arrive)
        yield each


@pytest.fixture
def calm(flood: Flood) -> Flood:
    """The peer, of whose earlier SYNs nothing is left."""
    eventually("they are given up", lambda: half_open() < SHARE / 4)
    return flood


@pytest.fixture(scope="module")
def service(server: TailnetHandle) -> Iterator[TailnetHandle]:
    """A node that accepts on one port."""
    with server.listen(f":{OPEN}") as listener:

        def accept() -> None:
            with contextlib.suppress(ConnectionAbortedError):
                while True:
                    listener.accept()[0].close()

        accepting = threading.Thread(target=accept)
        accepting.start()
        yield server
    accepting.join()


def half_open() -> int:
    """Return how many goroutines there are: each handshake has one, and there are some 100 more."""
    return lib.stats()["goroutines"]


def resident() -> float:
    """Return this process's memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def test_a_flood_holds_little_and_for_a_short_time(calm: Flood, service: TailnetHandle) -> None:
    """One node gets half of the room by all its addresses, for 7 s; then memory comes back."""
    memory, most = resident(), 0
    for _ in range(3):
        calm.send(service, OPEN, SYNS)
    eventually("its share is used", lambda: half_open() > 0.9 * SHARE)
    began = time.monotonic()
    while (now := half_open()) > SHARE / 4:
        most = max(most, now)
        assert time.monotonic() - began < 15, "half-open connections live on"
    assert most < 2.2 * SHARE  # their timers have goroutines, too, while SYN-ACKs are sent again
    eventually("memory comes back", lambda: resident() - memory < 48, timeout=30)


@pytest.mark.parametrize("port", [OPEN, CLOSED])
def test_others_are_answered_during_a_flood(
    calm: Flood, service: TailnetHandle, client: TailnetHandle, port: int
) -> None:
    """While one peer floods a node, and right after, others connect or are refused in a second."""
    took: list[float] = []
    until = float("inf")

    def wave() -> None:
        nonlocal until
        calm.send(service, port, SYNS)
        until = time.monotonic() + 1

    flooding = threading.Thread(target=wave)
    flooding.start()
    while time.monotonic() < until:
        began = time.monotonic()
        client.dial((str(service.ip), OPEN), timeout=10).close()
        took.append(time.monotonic() - began)
        with pytest.raises(TailnetRefused):
            client.dial((str(service.ip), CLOSED), timeout=10)
        took.append(time.monotonic() - began - took[-1])
    flooding.join()
    assert max(took) < PROMPT
