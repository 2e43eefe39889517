"""Taildrop and packet capture, which the library holds: nobody but the program begins them."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailnet import TailnetHandle
from tailnet.testing import Testnet
from tests.support.daemon import Daemon, binaries
from tests.support.managed import HOW
from tests.support.nodes import acquaint
from tests.support.waiting import WAIT, eventually


@pytest.fixture(scope="module")
def person() -> Iterator[Testnet]:
    """A tailnet of one person, whose nodes may send each other files."""
    with Testnet(same_user=True) as net:
        yield net


@pytest.fixture(scope="module")
def sender(person: Testnet) -> Iterator[TailnetHandle]:
    """Another node of the same person."""
    with person.tailnet("sender") as tn:
        yield tn


def ask(sender: TailnetHandle, name: str, method: str, path: str, body: bytes = b"") -> Any:
    """Ask a peer's PeerAPI, as Tailscale's own programs do; return the status and the answer."""

    def urls() -> list[str]:
        peers: list[dict[str, Any]] = list(sender.status().raw["Peer"].values())
        return [url for p in peers if p["HostName"] == name for url in p.get("PeerAPIURL") or ()]

    eventually("its PeerAPI is known", urls)
    connection = http.client.HTTPConnection(urls()[0].removeprefix("http://"), timeout=WAIT)
    connection.sock = sender.dial(urls()[0].removeprefix("http://"), timeout=WAIT)
    connection.sock.settimeout(WAIT)
    with contextlib.closing(connection):
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.mark.parametrize("how", ["embedded", "managed"])
def test_no_file_is_taken(person: Testnet, sender: TailnetHandle, how: str, tmp_path: Path) -> None:
    """A file that another node of the same person sends is refused, and nothing of it is kept."""
    fields = {**HOW, "tailscaled_path": binaries()[0]} if how == "managed" else {}
    state = tmp_path / "state"
    with person.tailnet(f"service-{how}", state_dir=state, **fields) as service:
        acquaint(service, sender)
        for method, path in (("PUT", "unasked.bin"), ("PUT", "..%2Fout"), ("PUT", "x")):
            status, said = ask(sender, service.hostname, method, f"/v0/put/{path}", b"x" * 100_000)
            assert (status, said.strip()) == (403, "Taildrop disabled; no storage directory")
        assert [p for p in state.rglob("*") if p.parent.name != state.name and p.is_file()] == []
        if how == "embedded":
            assert not (state / "files").exists()


def test_a_daemon_of_tailscale_takes_it(person: Testnet, sender: TailnetHandle) -> None:
    """The same file is taken by a tailscaled as it comes: the request is a right one."""
    with Daemon(person) as daemon:
        daemon.up("desktop")
        status, said = ask(sender, "desktop", "PUT", "/v0/put/asked.bin", b"x" * 100_000)
        assert (status, said) == (200, "{}\n")
        (kept,) = (daemon.directory / "state" / "files").rglob("asked.bin")
        assert kept.stat().st_size == 100_000


def test_no_peer_captures(person: Testnet, sender: TailnetHandle) -> None:
    """What begins a capture is reachable neither as a peer's request nor as a port of the node."""
    with person.tailnet("watched") as watched:
        acquaint(watched, sender)
        for path in ("/localapi/v0/debug-capture", "/v0/debug-capture", "/debug-capture"):
            assert ask(sender, "watched", "POST", path)[0] == 404
