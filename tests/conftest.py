"""Fixtures of every test: the two faces, an offline tailnet, and what must be back afterwards."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

import pytest

from tailnet import TailnetHandle
from tailnet.testing import Testnet
from tests.support import sidecar
from tests.support.backends import Embedded
from tests.support.daemon import Daemon, binaries
from tests.support.faces import Async, Face, Sync
from tests.support.held import nothing_left
from tests.support.nodes import Node, acquaint, knows
from tests.support.waiting import WAIT, eventually

__all__ = ["WAIT", "acquaint", "eventually", "knows", "nothing_left"]


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
