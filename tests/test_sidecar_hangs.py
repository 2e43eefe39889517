"""A tailscaled that is there and says nothing: every call has a limit, and it may go on."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailnet import (
    TailnetError,
    TailnetHandle,
    TailnetNotRunning,
    TailnetTimeout,
)
from tailnet.testing import Testnet
from tests.support.daemon import Daemon, Proxy
from tests.support.faces import Async, Face
from tests.support.held import nothing_left
from tests.support.sidecar import States, beside, config, greet, served, serving
from tests.support.threads import Pool
from tests.support.waiting import WAIT, eventually

# go/internal/session/client.go: a question is given 5 s, and then it is asked for 1 s whether it
# runs at all; what waits for a peer ends once the daemon has missed a beat, after 5 s and 5 s.
ASKED, BEATS = 8.0, 15.0


def test_joining(face: Face, daemon: Daemon) -> None:
    """It is said within a second, and what to do; once it goes on, joining works."""
    tailnet: Any = face.tailnet(config(daemon))
    with daemon.frozen() as began:
        with pytest.raises(TailnetNotRunning, match=f"{daemon.socket} does not answer.*restart"):
            face.up(tailnet)
        assert time.monotonic() - began < 1.5
    face.up(tailnet)
    face.leave(tailnet)


def test_every_call(face: Face, daemon: Daemon, peer: TailnetHandle, tmp_path: Path) -> None:
    """None waits for ever. watch() says that it is gone and back; what listens is back too."""
    with (
        nothing_left(),
        face.node(config(daemon)) as node,
        contextlib.closing(node.listen(":8080")) as listener,
        contextlib.closing(States(face, node.handle)) as states,
        Pool(10) as pool,
    ):
        states.until("Running")
        former = serving(daemon)
        assert former
        calls: dict[str, tuple[float, Callable[[], Any]]] = {
            "status": (ASKED, node.status),
            "whois": (ASKED, lambda: node.whois("100.64.99.99")),
            "listen": (ASKED, lambda: node.listen(":0")),
            "dial": (BEATS, lambda: node.dial((str(peer.ip), 80), None)),
            "dial by name": (BEATS, lambda: node.dial("nobody:80", None)),
            "ping": (BEATS, lambda: node.ping(peer.ip, None)),
            "capture": (BEATS, lambda: node.capture(tmp_path / "never")),
            "watch": (BEATS, lambda: states.until("NoState")),
        }

        def ending(call: Callable[[], Any]) -> tuple[object, float]:
            try:
                result: object = call()
            except TailnetError as e:
                result = e
            return result, time.monotonic() - began

        with daemon.frozen() as began:
            running = {name: pool.submit(ending, call) for name, (_, call) in calls.items()}
            for name, (limit, _) in calls.items():
                result, took = running[name].result(WAIT)
                assert took < limit, (name, result)
                if name == "watch":
                    assert result == ["NoState"]
                else:
                    assert isinstance(result, TailnetNotRunning), (name, result)
                    assert f"{daemon.socket} does not answer" in str(result), name
        states.until("Running")
        # The former session's may be served yet; between the two, a peer is refused.
        eventually("it is served anew", lambda: (now := serving(daemon)) and not now & former)
        greet(peer, node.handle.ip, 8080, listener.socket)
        assert node.status().state == "Running"


def test_a_deadline_of_the_callers(face: Face, daemon: Daemon) -> None:
    """It comes first, and is a TailnetTimeout."""

    def ask() -> object:
        call: Any = node.handle.whois("100.64.99.99", timeout=0.3)
        return face.run(call) if isinstance(face, Async) else call

    with face.node(config(daemon)) as node, daemon.frozen() as began:
        with pytest.raises(TailnetTimeout, match="who has that address"):
            ask()
        assert time.monotonic() - began < 1


def test_closing(face: Face, daemon: Daemon) -> None:
    """A node is closed in time, also where its daemon has only just begun to hang."""
    with nothing_left(), contextlib.ExitStack() as last:
        with face.node(config(daemon)) as node:
            listeners = [node.listen(":0") for _ in range(3)]
            began = last.enter_context(daemon.frozen())
            listeners[0].close()
        assert time.monotonic() - began < 2
        for listener in listeners:
            listener.close()
    eventually("nothing is served any more", lambda: not served(daemon))


QUESTIONS: dict[str, tuple[str, Callable[[TailnetHandle], object]]] = {
    "whois": ("whois", lambda node: node.whois("100.64.99.99")),
    "listen": ("serve-config", lambda node: node.listen(":0")),
}


@pytest.mark.parametrize("what", QUESTIONS)
def test_one_question_is_not_answered(daemon: Daemon, what: str) -> None:
    """A daemon that answers others is given up all the same."""
    release = threading.Event()

    def hang(body: bytes, ask: Callable[[bytes], tuple[int, bytes]]) -> tuple[int, bytes]:
        release.wait(WAIT)
        return ask(body)

    path, call = QUESTIONS[what]
    with contextlib.ExitStack() as last:
        proxy = last.enter_context(Proxy(daemon.socket, {path: hang}))
        last.callback(release.set)
        with beside(proxy.path) as node:
            began = time.monotonic()
            with pytest.raises(TailnetNotRunning, match=f"{proxy.path} does not answer"):
                call(node)
            assert time.monotonic() - began < ASKED


@pytest.mark.parametrize("how", ["SIGSTOP", "SIGKILL"])
def test_while_a_person_is_awaited(how: str) -> None:
    """A daemon that is gone, or hangs, ends the waiting too: nobody could log in any more."""
    with (
        Testnet(require_approval=True) as net,
        Daemon(net) as daemon,
        contextlib.closing(beside(daemon, control_url=net.url, auth_key=net.auth_key)) as tailnet,
        Pool(1) as pool,
        contextlib.ExitStack() as last,
    ):
        up = pool.submit(tailnet.up, on_login=print)
        eventually("it waits", lambda: daemon.status()["BackendState"] == "NeedsMachineAuth")
        if how == "SIGSTOP":
            last.enter_context(daemon.frozen())
        else:
            daemon.kill()
        with pytest.raises(TailnetNotRunning, match=r"does not answer|is not running"):
            up.result(BEATS)
