"""Fixtures of every test: the two faces, an offline tailnet, and what must be back afterwards."""

from __future__ import annotations

import contextlib
import gc
import math
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailnet import TailnetHandle
from tailnet._engine import lib
from tailnet.testing import Testnet
from tests import sidecar
from tests.backends import Embedded
from tests.daemon import Daemon, binaries
from tests.faces import Async, AsyncNode, Face, Sync, SyncNode
from tests.waiting import WAIT, eventually

__all__ = ["WAIT", "acquaint", "eventually", "knows", "nothing_left"]

Node = SyncNode | AsyncNode

# A shell that starts us in the background has us ignore Ctrl-C, and whatever we start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What these look at, only Linux has.
PROC = "only Linux tells, in /proc, what a process holds and where a thread waits"
LINUX = {
    "test_daemon.py": "the daemon's tests need /proc and network namespaces",
    "test_endings.py::test_several_threads_are_woken_from_timeouts": PROC,
    "test_flood.py": "the flood comes through a network namespace",
    "test_leaks.py": PROC,
    "test_listener.py::test_closing_the_node_wakes_accept": PROC,
    "test_listener.py::test_closing_the_listener_wakes_accept": PROC,
    "test_managed.py": PROC,
    "test_managed_ends.py": PROC,
    "test_no_proc.py": "it is about a Linux without /proc",
    "test_processes.py": PROC,
    "test_sidecar": PROC,
}

pytest_plugins = ["pytester"]  # test_plugin.py runs pytest; pytest wants this line here


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Elsewhere than on Linux, skip what only Linux can show."""
    for item in items if sys.platform != "linux" else ():
        for name, reason in LINUX.items():
            if item.nodeid.startswith(f"tests/{name}"):
                item.add_marker(pytest.mark.skip(reason))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the daemon that tests run: the first time takes longer than a test may."""
    words = {"Daemon", "binaries", "daemon", "managed", "sidecar"}
    for item in session.items if not session.config.option.collectonly else ():
        if isinstance(item, pytest.Function) and (
            "nodes" in item.fixturenames or words & {*vars(item.module), *item.fixturenames}
        ):
            binaries()


@pytest.fixture(scope="module")
def net() -> Iterator[Testnet]:
    """An offline tailnet for one module."""
    with Testnet() as testnet:
        testnet.tailnet("first").up().close()  # what a process opens once is no leak of a test
        yield testnet


@pytest.fixture(scope="module", params=["sync", "asyncio"])
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    """Each of the two faces."""
    with contextlib.closing(Sync() if request.param == "sync" else Async()) as each:
        yield each


@pytest.fixture(scope="module")
def backend(net: Testnet) -> Embedded:
    """How nodes are on the tailnet; test_conformance has the others too."""
    return Embedded(net)


@pytest.fixture(scope="module")
def nodes(face: Face, backend: Embedded) -> Iterator[tuple[Node, Node]]:
    """Two nodes of the module's tailnet, "server" and "client"."""
    suffix = face.name
    with (
        face.node(backend.config(f"server-{suffix}")) as server,
        face.node(backend.config(f"client-{suffix}")) as client,
    ):
        for here, there in ((server, client), (client, server)):
            # Two nodes that talk for the first time start what they then keep: no leak of a test.
            eventually("they know each other", lambda: knows(here, there))  # noqa: B023
            with (
                contextlib.closing(here.listen(":1")) as listener,
                contextlib.closing(there.dial(f"{here.handle.ip}:1")),
            ):
                listener.accept()[0].close()
        yield server, client


@pytest.fixture(scope="module")
def server(net: Testnet) -> Iterator[TailnetHandle]:
    """The node that listens."""
    with net.tailnet("server") as tn:
        yield tn


@pytest.fixture(scope="module")
def client(net: Testnet, server: TailnetHandle) -> Iterator[TailnetHandle]:
    """The node that dials."""
    with net.tailnet("client") as tn:
        acquaint(tn, server)
        yield tn


@pytest.fixture(scope="module")
def daemon(net: Testnet) -> Iterator[Daemon]:
    """A tailscaled of its own, on the module's tailnet."""
    with Daemon(net) as each:
        each.up("daemon")
        yield each


@pytest.fixture(scope="module")
def peer(net: Testnet, daemon: Daemon) -> Iterator[TailnetHandle]:
    """Somebody else of the tailnet."""
    with net.tailnet("peer") as each:
        sidecar.knows(daemon, each)
        yield each


@pytest.fixture(scope="module")
def node(daemon: Daemon) -> Iterator[TailnetHandle]:
    """A node of the daemon."""
    with sidecar.beside(daemon) as each:
        yield each


def acquaint(*nodes: TailnetHandle) -> None:
    """Wait until every node has heard of every other; before that, it cannot dial it."""
    for node in nodes:
        others = {other.fqdn for other in nodes} - {node.fqdn}
        eventually("they know each other", lambda: others <= {p.name for p in node.status().peers})  # noqa: B023


def knows(node: Node, other: Node) -> bool:
    """Report whether a node has heard of another, which takes a moment after that has joined."""
    return any(peer.name == other.handle.fqdn for peer in node.status().peers)


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
