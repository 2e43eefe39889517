"""A node that an admin removes while it runs: who is told, and what calls say then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tailnet import TailnetAuthError, TailnetHandle, TailnetPeerNotFound
from tailnet.models import HealthChanged, PeersChanged, Removed
from tailnet.testing import Testnet
from tests.support.daemon import Daemon, binaries
from tests.support.nodes import acquaint
from tests.support.threads import Pool
from tests.support.waiting import WAIT, eventually

TOLD = 10.0  # seconds until watch() says it
GONE = r'^node "victim" was removed from the tailnet by an admin; close\(\) it, then join again'


@pytest.fixture
def victim(net: Testnet) -> Iterator[TailnetHandle]:
    """The node that is removed."""
    with net.tailnet("victim") as node:
        yield node


def told(node: TailnetHandle) -> None:
    """Wait until a new watch says that its node was removed."""
    with node.watch() as watch:
        deadline = time.monotonic() + TOLD
        while not isinstance(watch.next(timeout=deadline - time.monotonic()), Removed):
            pass


def test_the_watch_says_it(net: Testnet, victim: TailnetHandle) -> None:
    """A watch that is open is told within 10 s, once, and so is one that begins later."""
    with victim.watch() as watch:
        watch.next(timeout=WAIT)
        net.control.remove_node("victim")
        deadline = time.monotonic() + TOLD
        events = [watch.next(timeout=WAIT)]
        while not {Removed, HealthChanged} <= set(map(type, events)) or not named(events):
            events.append(watch.next(timeout=deadline - time.monotonic()))
        assert sum(isinstance(event, Removed) for event in events) == 1
    told(victim)
    assert any("an admin has removed it" in text for text in victim.status().health)


def test_the_log_says_it(
    net: Testnet, victim: TailnetHandle, caplog: pytest.LogCaptureFixture
) -> None:
    """A program that only waits for connections finds a warning, once."""
    with victim.listen(":80"):
        net.control.remove_node("victim")
        warning = '[victim] node "victim" was removed from the tailnet by an admin; close() it'
        eventually("the log says it", lambda: warning in caplog.text)
        assert caplog.text.count(warning) == 1


def named(events: Sequence[object]) -> bool:
    """Report whether a warning names the cause."""
    codes = [w.code for e in events if isinstance(e, HealthChanged) for w in e.warnings]
    return "node-not-found" in codes


@pytest.mark.parametrize(
    "call",
    [
        lambda node, peer: node.dial(f"{peer.ip}:80", timeout=5),
        lambda node, _: node.dial("nobody:80", timeout=5),
        lambda node, _: node.listen(":80"),
        lambda node, peer: node.whois(peer.ip),
    ],
    ids=["dial", "dial a name", "listen", "whois"],
)
def test_calls_say_it(
    net: Testnet,
    victim: TailnetHandle,
    server: TailnetHandle,
    call: Callable[[TailnetHandle, TailnetHandle], object],
) -> None:
    """Every call that needs the tailnet raises TailnetAuthError, which says what to do."""
    acquaint(victim, server)
    victim.whois(server.ip)  # what was asked before is not answered from memory either
    net.control.remove_node("victim")
    told(victim)
    with pytest.raises(TailnetAuthError, match=GONE) as caught:
        call(victim, server)
    assert not caught.value.retryable


def test_a_dial_that_waits_ends(net: Testnet, victim: TailnetHandle) -> None:
    """A dial under way when its node is removed does not wait for its timeout."""
    net.control.add_fake_nodes(1)
    eventually("it has a peer that never answers", lambda: fake(victim))
    with Pool(1) as pool:
        dial = pool.submit(victim.dial, f"{fake(victim)[0]}:80", timeout=4 * WAIT)
        net.control.remove_node("victim")
        with pytest.raises(TailnetAuthError, match=GONE):
            dial.result(WAIT)


def fake(node: TailnetHandle) -> list[str]:
    """Return the addresses of peers that are in the network map only."""
    return [str(p.ips[0]) for p in node.status().peers if p.hostname.startswith("fake")]


def test_it_joins_again(net: Testnet, tmp_path: Path) -> None:
    """Its up() says it too; a new Tailnet joins on the same state, as a new machine."""
    tailnet = net.tailnet("phoenix", state_dir=tmp_path)
    with tailnet as node:
        before = node.ip
        net.control.remove_node("phoenix")
        told(node)
        with pytest.raises(TailnetAuthError, match="was removed"):
            tailnet.up()
    with net.tailnet("phoenix", state_dir=tmp_path) as node:
        assert node.hostname == "phoenix"
        assert node.ip != before


def test_an_outage_is_no_removal(net: Testnet, victim: TailnetHandle) -> None:
    """A control server that is away, or answers HTTP 404 to everything, removes nobody."""
    for fault in ("refuse", "status"):
        with victim.watch() as watch:
            net.control.fault(fault, status=404)
            try:
                eventually("it is offline", lambda: not online(net, "victim"))
                victim.whois(victim.ip)
            finally:
                net.control.fault("none")
            eventually("it is back", lambda: online(net, "victim"))
            net.control.set_tags("victim", ["tag:x"])  # the last that it is told
            while not isinstance(event := watch.next(timeout=WAIT), PeersChanged):
                assert not isinstance(event, Removed)


def online(net: Testnet, name: str) -> bool:
    """Report whether a node is connected to the control server."""
    return any(node.online for node in net.control.nodes() if node.hostname == name)


def test_peers_forget_it(net: Testnet, server: TailnetHandle) -> None:
    """Others hear that it is gone: whois finds nobody at its address, and nobody gets that."""
    with net.tailnet("gone") as gone:
        acquaint(server, gone)
        stable_id = server.whois(gone.ip).node.stable_id
        with server.watch() as watch:
            watch.next(timeout=WAIT)
            net.control.remove_node("gone")
            event = watch.next(timeout=WAIT)
            while not (isinstance(event, PeersChanged) and stable_id in event.removed):
                event = watch.next(timeout=WAIT)
        with pytest.raises(TailnetPeerNotFound):
            server.whois(gone.ip)
        assert "gone" not in [node.hostname for node in net.control.nodes()]
        with net.tailnet("next") as node:
            assert node.ip not in {gone.ip, server.ip}


def test_through_a_daemon(net: Testnet, daemon: Daemon, node: TailnetHandle) -> None:
    """Through a tailscaled that lets us read its log, watch() and calls say it alike."""
    assert daemon.running()
    net.control.remove_node(node.hostname)
    told(node)
    for call in (lambda: node.dial("nobody:80", timeout=5), lambda: node.whois(node.ip)):
        with pytest.raises(TailnetAuthError, match="was removed"):
            call()


def test_through_a_managed_daemon(net: Testnet) -> None:
    """A tailscaled of our own says it too."""
    tailscaled, _ = binaries()
    fields = {"tailscaled_managed": True, "tailscaled_path": tailscaled}
    with net.tailnet("managed", backend="tailscaled", **fields) as node:
        net.control.remove_node("managed")
        told(node)
        with pytest.raises(TailnetAuthError, match="was removed"):
            node.listen(":80")
