"""How soon the first dial gets through, while others have not heard of the node yet."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailnet import TailnetHandle
from tailnet.testing import Testnet
from tests.support.nodes import acquaint
from tests.support.threads import Pool

# Less than the 0.8 s of headscale (tuning.batch_change_delay), or 200 dials would take too long.
LATE = 0.2
# WireGuard itself repeats a handshake after 5 s; see build_patches.py.
SOON = 4.0
FRESH = 100


@pytest.fixture(scope="module", params=[False, True], ids=["direct", "relayed"])
def relay_only(request: pytest.FixtureRequest) -> bool:
    """Whether peers reach each other through the relay only."""
    return bool(request.param)


@pytest.fixture(scope="module")
def late(*, relay_only: bool) -> Iterator[Testnet]:
    """A tailnet whose control server tells of changes late."""
    with Testnet(tell_peers_after=LATE, relay_only=relay_only) as net:
        yield net


@pytest.fixture(scope="module")
def prompt(*, relay_only: bool) -> Iterator[Testnet]:
    """A tailnet whose control server tells of changes at once."""
    with Testnet(relay_only=relay_only) as net:
        yield net


def greet(node: TailnetHandle, peer: TailnetHandle) -> float:
    """Dial a peer and read its greeting; return how long that took."""
    began = time.monotonic()
    with contextlib.closing(node.dial(f"{peer.ip}:80", timeout=SOON)) as connection:
        connection.settimeout(SOON)
        assert connection.recv(2) == b"hi"
    return time.monotonic() - began


@contextlib.contextmanager
def greeting(node: TailnetHandle) -> Iterator[None]:
    """Greet whoever dials, for the length of a `with`."""
    with Pool(1) as pool, node.listen(":80", backlog=FRESH) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):  # closed: the test is over
                while True:
                    connection, _ = listener.accept()
                    connection.sendall(b"hi")
                    connection.close()

        pool.submit(serve)
        yield
        listener.close()


def test_a_fresh_node_dials(late: Testnet) -> None:
    """Of 100 nodes that dial as soon as they have joined, all get through within 4 s."""

    def join_and_dial(number: int) -> float:
        with late.tailnet(f"fresh-{number}") as node:
            return greet(node, server)

    with late.tailnet("server") as server, greeting(server), Pool(4) as pool:
        took = list(pool.map(join_and_dial, range(FRESH)))
    assert max(took) > LATE / 2, "nobody was told late: this tests nothing"


def test_a_node_starts_again(prompt: Testnet, tmp_path: Path) -> None:
    """A node that starts again with its state is reached within 4 s, and reaches others."""

    def node(name: str) -> contextlib.AbstractContextManager[TailnetHandle]:
        return prompt.tailnet(name, state_dir=tmp_path / name)

    with node("old") as old, greeting(old):
        for _ in range(3):
            with node("again") as again, greeting(again):
                acquaint(old, again)
                greet(old, again)
            with node("again") as again:
                greet(again, old)


def test_the_relay_restarts(prompt: Testnet) -> None:
    """After a restart of the relay old and fresh nodes get through within 4 s."""
    with prompt.tailnet("a") as a, prompt.tailnet("b") as b, greeting(a):
        acquaint(a, b)
        for number in range(3):
            prompt.control.restart_relay()
            greet(b, a)
            with prompt.tailnet(f"c-{number}") as c:
                prompt.control.restart_relay()
                greet(c, a)
