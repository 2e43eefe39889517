"""An attempt to join that ends in the middle: the next one is the same node for the server."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailnet import RetryPolicy, TailnetConnectError, TailnetTimeout
from tailnet.testing import Testnet
from tests.support.daemon import binaries
from tests.support.faces import Face
from tests.support.held import nothing_left
from tests.support.managed import HOW, no_child_left
from tests.support.waiting import eventually

numbers = itertools.count()


class Hasty:
    """A node that gives up, with a name and a key of its own, that is for one use."""

    def __init__(self, face: Face, net: Testnet, fields: dict[str, Any]) -> None:
        self.name = f"hasty{next(numbers)}"
        self.key = f"tskey-auth-{self.name}"
        net.control.add_one_time_key(self.key)
        net.control.fault("no_map")
        self.face, self.net, self.fields = face, net, {**fields, "auth_key": self.key}

    def tailnet(self, **fields: Any) -> Any:
        """Return a Tailnet that has not joined."""
        return self.face.tailnet(self.net.config(self.name, **{**self.fields, **fields}))

    @contextlib.contextmanager
    def closing(self, **fields: Any) -> Iterator[Any]:
        """Yield a Tailnet that has not joined, and close it."""
        tailnet = self.tailnet(**fields)
        try:
            yield tailnet
        finally:
            self.face.leave(tailnet)

    def registered(self) -> list[str]:
        """Return the node keys of this name that the server knows."""
        nodes = self.net.control.nodes()
        return [node.key for node in nodes if node.hostname.startswith(self.name)]

    def half(self, tailnet: Any) -> str:
        """Give up joining once the server has taken the key; return the node key it knows then."""
        deadline = time.monotonic() + 20
        while not self.registered():
            assert time.monotonic() < deadline
            with pytest.raises(TailnetTimeout):
                self.face.up(tailnet, timeout=0.2)
        (key,) = self.registered()
        return key

    def joins(self, tailnet: Any, key: str) -> None:
        """The server answers again, and the node is the one that it knew."""
        self.net.control.fault("none")
        assert self.face.up(tailnet, timeout=20).handle.hostname == self.name
        assert self.registered() == [key]


@pytest.fixture(params=["in memory", "state_dir"])
def hasty(
    request: pytest.FixtureRequest, face: Face, net: Testnet, tmp_path: Path
) -> Iterator[Hasty]:
    """Such a node, on a tailnet that sends no network map; it keeps its keys here or there."""
    with nothing_left():
        yield Hasty(
            face, net, {"state_dir": tmp_path / "s"} if request.param != "in memory" else {}
        )


@pytest.fixture
def kept(face: Face, net: Testnet, tmp_path: Path) -> Iterator[Hasty]:
    """One that keeps them in a state directory."""
    with nothing_left():
        yield Hasty(face, net, {"state_dir": tmp_path / "state"})


def test_up_again_after_a_timeout(hasty: Hasty) -> None:
    """A one-time key is not lost to an up(timeout=) that was too short: the next one joins."""
    with hasty.closing() as tailnet:
        hasty.joins(tailnet, hasty.half(tailnet))


def test_up_again_after_an_interrupt(hasty: Hasty) -> None:
    """Nor is it lost to a Ctrl-C, or to a task that was cancelled."""
    with hasty.closing() as tailnet:
        while not hasty.registered():
            hasty.face.interrupted(lambda: hasty.face.up(tailnet))
        (key,) = hasty.registered()
        hasty.joins(tailnet, key)


def test_a_managed_tailscaled_goes_on(face: Face, net: Testnet, tmp_path: Path) -> None:
    """A tailscaled that the library runs goes on with its login as well."""
    with no_child_left():
        fields = {**HOW, "tailscaled_path": binaries()[0], "state_dir": tmp_path / "state"}
        hasty = Hasty(face, net, fields)
        with hasty.closing() as tailnet:
            hasty.joins(tailnet, hasty.half(tailnet))


def test_up_again_after_silence(hasty: Hasty) -> None:
    """Nor to a server that takes the key and then says nothing, whose attempts are fresh ones."""
    retry = RetryPolicy(retries=1, first_delay=0.01)
    with hasty.closing(connect_timeout=0.7, retry=retry) as tailnet:
        with pytest.raises(TailnetConnectError, match=r"no answer .* \(the last of 2 attempts\)"):
            hasty.face.up(tailnet)
        (key,) = hasty.registered()
        hasty.joins(tailnet, key)


def test_short_attempts_get_there(hasty: Hasty) -> None:
    """Attempts that are each too short go on where the one before stopped."""
    hasty.net.control.fault("none")
    with hasty.closing() as tailnet:

        def joined() -> bool:
            with contextlib.suppress(TailnetTimeout):
                hasty.face.up(tailnet, timeout=0.03)
                return True
            return False

        eventually("it has joined", joined)
        assert len(hasty.registered()) == 1


def test_another_tailnet_on_the_same_directory(kept: Hasty) -> None:
    """With a state directory that holds for the next Tailnet as well, after close()."""
    with kept.closing() as tailnet:
        key = kept.half(tailnet)
    with kept.closing() as tailnet:
        kept.joins(tailnet, key)


def test_the_next_process_on_the_same_directory(kept: Hasty) -> None:
    """And for the next process, where this one was killed."""
    code = "import sys; from tailnet import *; Tailnet(hostname=sys.argv[1], state_dir=sys.argv[2])"
    call = [sys.executable, "-c", code + ".up()", kept.name, str(kept.fields["state_dir"])]
    env = {**os.environ, **kept.net.environ(), "TS_AUTHKEY": kept.key}
    with subprocess.Popen(call, env=env) as killed:
        eventually("the server has taken the key", kept.registered)
        killed.send_signal(signal.SIGKILL)
    (key,) = kept.registered()
    with kept.closing() as tailnet:
        kept.joins(tailnet, key)


def test_a_node_key_that_died_meanwhile(kept: Hasty) -> None:
    """A node key that the server lets expire before it was ever used is replaced."""
    key = kept.net.auth_key
    once, again = (RetryPolicy(retries=n, first_delay=0.01) for n in (0, 3))
    early = kept.closing(auth_key=key, connect_timeout=0.7, retry=once)
    with early as tailnet, pytest.raises(TailnetConnectError):
        kept.face.up(tailnet)
    (dead,) = kept.registered()
    kept.net.control.expire_keys(dead)
    kept.net.control.fault("none")
    with kept.closing(auth_key=key, retry=again) as tailnet:
        kept.face.up(tailnet, timeout=20)
        assert len(kept.registered()) == 2


@pytest.mark.parametrize("how", ["close", "forget"])
def test_it_ends(hasty: Hasty, how: str) -> None:
    """What was given up goes on until close(), or until nobody holds the Tailnet any more."""
    tailnet = hasty.tailnet()
    hasty.half(tailnet)
    if how == "close":
        hasty.face.leave(tailnet)
