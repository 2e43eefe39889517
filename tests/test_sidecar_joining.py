"""A node of a tailscaled that runs: joining it, and what is in the way."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tailnet import (
    TailnetAuthError,
    TailnetConfig,
    TailnetConfigError,
    TailnetError,
    TailnetNotRunning,
)
from tailnet.testing import Testnet
from tests.support.daemon import NOBODY, Daemon, Proxy
from tests.support.faces import Face
from tests.support.held import nothing_left
from tests.support.sidecar import beside, config, program, root, said
from tests.support.threads import finished, started
from tests.support.waiting import WAIT


@pytest.fixture(scope="module", autouse=True)
def _offline(net: Testnet) -> None:
    """What an offline tailnet sets is the whole process's, from its first node on."""
    del net


# A process to which /run is empty.
MOUNT = 'mount -t tmpfs none /run && exec "$0" "$@"'
OWN_RUN = ("unshare", "--mount", "sh", "-c", MOUNT)

# What the daemon's socket is asked first is answered within a second; the rest is Python's.
AT_ONCE = 1.5


def refused(
    face: Face, path: str, kind: type[TailnetError], match: str, within: float = AT_ONCE, **f: Any
) -> None:
    """Joining fails in time, with that error."""
    tailnet: Any = face.tailnet(TailnetConfig(backend="tailscaled", tailscaled_socket=path, **f))
    began = time.monotonic()
    with pytest.raises(kind, match=match) as caught:
        face.up(tailnet)
    took = time.monotonic() - began
    face.leave(tailnet)
    assert took < within
    assert type(caught.value) is kind
    assert not caught.value.retryable


def test_it_is_the_daemons_node(face: Face, daemon: Daemon) -> None:
    """Its name and addresses are what the daemon has."""
    self = daemon.status()["Self"]
    config = TailnetConfig(backend="tailscaled", tailscaled_socket=daemon.socket, hostname="other")
    with nothing_left(), face.node(config) as node:
        assert node.handle.fqdn == self["DNSName"].rstrip(".")
        assert node.handle.hostname == node.handle.fqdn.split(".")[0] == "daemon"
        assert [str(ip) for ip in node.handle.ips] == self["TailscaleIPs"]
        assert (
            node.status().self.stable_id == self["ID"]
            if hasattr(node.status().self, "stable_id")
            else True
        )


def test_what_is_not_used(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    """What was given and the daemon decides is a warning; no line bears the name not used."""
    caplog.set_level("INFO", "tailnet")
    with beside(daemon, hostname="other", ephemeral=True) as node, node.listen(":0"):
        assert "other" not in repr(node)
    (line,) = [r for r in caplog.records if "not used" in r.getMessage()]
    assert line.levelname == "WARNING"
    assert line.getMessage().startswith("[tailscaled] not used: ephemeral, hostname (")
    assert "[other]" not in caplog.text
    caplog.clear()
    with beside(daemon):
        assert "not used" not in caplog.text


def test_no_socket(face: Face, tmp_path: Path) -> None:
    """Nothing runs: it says where it was looked for, and how to start it."""
    path = str(tmp_path / "none")
    with nothing_left():
        refused(
            face, path, TailnetNotRunning, f"no socket {path}.*systemctl start.*tailscaled_socket"
        )


@pytest.fixture
def short() -> Iterator[str]:
    """A path that fits into the name of a unix socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield directory + "/s"


@root
def test_the_usual_place(daemon: Daemon) -> None:
    """Without tailscaled_socket it is the one that Tailscale puts there."""
    code = """
        attempt(lambda: Tailnet(backend="tailscaled", control_url=%r).up().hostname)
        os.mkdir("/run/tailscale"), os.symlink(path, "/run/tailscale/tailscaled.sock")
        attempt(lambda: Tailnet(backend="tailscaled", control_url=%r).up().hostname)
    """
    url = daemon.net.url
    with program(daemon.socket, code % (url, url), before=OWN_RUN) as other:
        assert "there is no socket /var/run/tailscale/tailscaled.sock" in said(other)
        assert said(other) == "daemon"


def test_a_stale_socket(face: Face, short: str) -> None:
    """A daemon has died and left its socket."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(short)
        stale.listen()
    refused(face, short, TailnetNotRunning, f"nobody listens at its socket {short}.*start")


ANSWERS = {
    "silence": b"",
    "garbage": b"SSH-2.0-x\r\n",
    "the end": None,
    "a page": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
    "not found": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_something_else_listens(face: Face, short: str, answer: str) -> None:
    """What is no tailscaled is not taken for one, and not waited for."""
    with (
        nothing_left(),
        contextlib.ExitStack() as held,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        listener.bind(short)
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    conn = held.enter_context(listener.accept()[0])
                    data = ANSWERS[answer]
                    if data is None:
                        conn.close()
                    elif data:
                        conn.recv(1 << 16)
                        conn.sendall(data)
                        conn.shutdown(socket.SHUT_WR)

        thread = started(serve)
        try:
            how = "" if answer == "silence" else " as a tailscaled"
            refused(face, short, TailnetNotRunning, f"{short} does not answer{how}")
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            finished(thread)


@root
def test_a_socket_that_is_not_for_us(daemon: Daemon, short: str) -> None:
    """A user who may not open the socket hears that, and why."""
    Path(short).parent.chmod(0o700)
    Path(short).symlink_to(daemon.socket)
    with program(short, "attempt(up)", NOBODY) as other:
        text = said(other)
    assert text.startswith("TailnetNotRunning False True ")
    assert "mode that forbids it" in text


def test_stopped_and_logged_out(net: Testnet, face: Face) -> None:
    """A daemon that is down, or nobody's: which it is, and what to do. With a key it logs in."""
    with Daemon(net) as daemon:
        refused(face, daemon.socket, TailnetNotRunning, "logged out.*tailscale up.*auth_key")
        fields: dict[str, Any] = {"control_url": net.url, "auth_key": net.auth_key}
        refused(
            face,
            daemon.socket,
            TailnetAuthError,
            "invalid",
            within=WAIT,
            control_url=net.url,
            auth_key="tskey-auth-wrong",
        )
        config = TailnetConfig(backend="tailscaled", tailscaled_socket=daemon.socket, **fields)
        with face.node(config) as node:
            assert str(node.handle.ip) == daemon.status()["TailscaleIPs"][0]
            assert node.handle.fqdn == daemon.status()["Self"]["DNSName"].rstrip(".")
        assert daemon.status()["BackendState"] == "Running"
        daemon.down()
        refused(face, daemon.socket, TailnetNotRunning, "is stopped.*sudo tailscale up")
        refused(face, daemon.socket, TailnetNotRunning, "is stopped.*sudo tailscale up", **fields)
        daemon.cli("up")
        daemon.logout()
        refused(face, daemon.socket, TailnetNotRunning, "logged out.*tailscale up.*auth_key")


@pytest.mark.parametrize("who", ["tailscale", "we"])
def test_a_key_after_a_wrong_one(face: Face, net: Testnet, who: str) -> None:
    """What control said of an earlier key is not said of this one; and a key is tried each time."""
    wrong = {"control_url": net.url, "auth_key": "tskey-auth-wrong"}
    with Daemon(net) as daemon:
        if who == "tailscale":
            with pytest.raises(AssertionError, match="invalid"):
                daemon.up("first", "--timeout=1s", auth_key="tskey-auth-wrong")
        name = daemon.get("prefs")["Hostname"] or daemon.status()["Self"]["HostName"]
        for _ in range(2):
            match = f'refused node "{name}": invalid'
            refused(face, daemon.socket, TailnetAuthError, match, within=WAIT, **wrong)
        with face.node(config(daemon, control_url=net.url, auth_key=net.auth_key)) as node:
            assert node.status().state == "Running"


def test_no_program_is_run_for_a_hint(tmp_path: Path) -> None:
    """Tailscale's client asks systemctl about a daemon that is gone, each time that it looks."""
    hint = tmp_path / "systemctl"
    hint.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked")
    hint.chmod(0o755)
    path = str(tmp_path / "none")
    with program(path, "attempt(up)", PATH=f"{tmp_path}:{os.environ['PATH']}") as other:
        assert said(other).startswith("TailnetNotRunning False True ")
    assert not (tmp_path / "asked").exists()


def test_another_control_server(face: Face, daemon: Daemon) -> None:
    """A daemon of another tailnet than the configuration names is a mistake in it."""
    url = "https://elsewhere.example.com"
    match = r"control_url.*127\.0\.0\.1"
    refused(face, daemon.socket, TailnetConfigError, match, control_url=url)
    with beside(daemon, control_url=daemon.net.url + "/") as node:
        assert node.hostname == "daemon"


def test_a_daemon_that_hangs_half_way(daemon: Daemon) -> None:
    """One that answers the first question and no other is given up too."""
    release = threading.Event()

    def hang(body: bytes, ask: Callable[[bytes], tuple[int, bytes]]) -> tuple[int, bytes]:
        release.wait(WAIT)
        return ask(body)

    with Proxy(daemon.socket, {"prefs": hang}) as proxy, contextlib.ExitStack() as last:
        tailnet = beside(proxy.path)
        last.callback(tailnet.close)
        last.callback(release.set)
        with pytest.raises(TailnetNotRunning, match="does not answer"):
            tailnet.up(timeout=5)
