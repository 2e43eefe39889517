"""A tailscaled that the library runs as its child: how it starts, and what it is."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tailnet as tailnets
from tailnet import RetryPolicy, TailnetHandle, TailnetNotRunning
from tailnet.testing import Testnet
from tests.support.daemon import binaries
from tests.support.faces import Face
from tests.support.managed import (
    HOW,
    JOIN,
    daemons,
    directory,
    managed,
    no_child_left,
    program,
    read,
    script,
)
from tests.support.threads import Pool
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _leaves_nothing(net: Testnet) -> Iterator[None]:
    del net  # it comes first, and stays
    with no_child_left():
        yield


# --- finding it, and joining ---

CANNOT = {  # what is in its place: what the error says
    "none": "no such file",
    "unable": "permission denied",
    "/tmp": "is a directory",
    "words": "exec format error",
    "/bin/false": "exit status 1",
    "said": "exit status 3.*last words: why it ends",
}


@pytest.mark.parametrize("kind", CANNOT)
def test_what_cannot_be_run(face: Face, net: Testnet, tmp_path: Path, kind: str) -> None:
    """It is a TailnetNotRunning at once, with the reason, ten times of ten."""
    script(tmp_path / "unable", "#!/bin/sh", mode=0o644)
    script(tmp_path / "words", "words")
    script(tmp_path / "said", "#!/bin/sh", "echo why it ends >&2", "exit 3")
    for _ in range(10):
        with managed(face, net, "none", tailscaled_path=tmp_path / kind) as tailnet:
            started = time.monotonic()
            with pytest.raises(TailnetNotRunning, match=CANNOT[kind]) as caught:
                face.up(tailnet)
            assert time.monotonic() - started < 1
            assert not caught.value.retryable


def test_what_never_answers(face: Face, net: Testnet, tmp_path: Path) -> None:
    """It is given connect_timeout, and ended with all it has started; its words are told."""
    lines = ["trap '' TERM", f"sleep 300 & echo $! > {tmp_path}/pid", "echo a word", "wait; wait"]
    path = script(tmp_path / "mute", "#!/bin/sh", *lines)
    mute = managed(face, net, "mute", tailscaled_path=path, connect_timeout=0.8)
    with mute as tailnet, pytest.raises(TailnetNotRunning) as caught:
        face.up(tailnet)
    other = int((tmp_path / "pid").read_text())
    if left := read(other, "cmdline"):
        os.kill(other, signal.SIGKILL)
    assert not left
    assert re.search("does not answer.*a word", str(caught.value))


FOUND = {"PATH": "{here}:/usr/bin"}
LOOK = ["try: print(tn.up().hostname)", "except TailnetNotRunning as e: print(e)", "tn.close()"]
AGAIN = [*LOOK[:2], JOIN, "os.environ['PATH'] = '{here}'", *LOOK]
UNSHARE = "assert not __import__('ctypes').CDLL(None).unshare(0x20000)"  # CLONE_NEWNS
MOUNT = "assert not os.system('mount --make-rprivate /; mount --bind {here} /usr/local/sbin')"
ABSENT = "there is no tailscaled.*install.*tailscaled_path.*embedded"
PLACES: dict[str, tuple[dict[str, str], list[str], str]] = {
    "PATH": (FOUND, LOOK, "program"),
    "os.environ": ({}, AGAIN, "program"),
    "TMPDIR": ({**FOUND, "TMPDIR": "{here}/" + "x" * 100}, LOOK, "program"),
    "sbin": ({}, [UNSHARE, MOUNT, *LOOK], "program"),
    "nowhere": ({}, LOOK, ABSENT),
}


@pytest.mark.parametrize("place", PLACES)
def test_it_is_found(net: Testnet, tmp_path: Path, place: str) -> None:
    """It is that of PATH, as it is now, or of an sbin directory; a long TMPDIR is no matter."""
    if place == "sbin" and os.getuid():
        pytest.skip("a mount over /usr/local/sbin needs root")
    (tmp_path / "tailscaled").symlink_to(binaries()[0])
    (tmp_path / ("x" * 100)).mkdir()
    env, lines, want = PLACES[place]
    env = {k: v.replace("{here}", str(tmp_path)) for k, v in {"PATH": "/usr/bin", **env}.items()}
    lines = [line.replace("{here}", str(tmp_path)) for line in lines]
    with program(net, *lines, how=str(HOW), **env) as running:
        assert re.match(want, running.communicate(timeout=30)[0].splitlines()[-1])


def test_it_is_a_node(face: Face, net: Testnet, client: TailnetHandle) -> None:
    """It has the name it asked for, and connections go both ways."""
    with managed(face, net, f"Node-{face.name}") as tailnet:
        node = face.up(tailnet)
        assert node.handle.hostname == f"node-{face.name}"
        assert len(daemons()) == 1
        for peers, other in ((node, client), (client, node.handle)):
            eventually("it is known", lambda: other.fqdn in {p.name for p in peers.status().peers})  # noqa: B023
        with contextlib.closing(node.listen(":80")) as inner, client.listen(":81") as outer:
            with client.dial(f"{node.handle.ip}:80"):
                far, peer = inner.accept()
                assert peer[0] == str(client.ip)
                far.close()
            with contextlib.closing(node.dial(f"{client.ip}:81")), outer.accept()[0] as there:
                assert there.getpeername()[0] == str(node.handle.ip)


def test_a_person_must_act(face: Face) -> None:
    """An error says so, and up() again goes on with the same child; it may die meanwhile."""
    with Testnet(require_login=True, require_approval=True) as net:
        with managed(face, net, "person") as tailnet:
            with pytest.raises(tailnets.TailnetLoginRequired):
                face.up(tailnet)
            os.kill(daemons().pop(), signal.SIGKILL)
            with pytest.raises(TailnetNotRunning, match=r"killed"):
                face.up(tailnet)
            with pytest.raises(tailnets.TailnetLoginRequired) as caught:
                face.up(tailnet)
            child = daemons()
            net.control.complete_login(caught.value.url)
            with pytest.raises(tailnets.TailnetApprovalRequired):
                face.up(tailnet)
            net.control.approve()
            face.up(tailnet, timeout=20)
            assert daemons() == child
        with managed(face, net, "patient") as tailnet, Pool(1) as pool:
            login = net.control.complete_login
            up: Any = pool.submit(face.up, tailnet, on_login=login, timeout=20)
            eventually("it is met", lambda: "patient" in {n.hostname for n in net.control.nodes()})
            net.control.approve()
            assert up.result().handle.hostname == "patient"


@pytest.mark.parametrize("fault", ["refuse", "hang", "status"])
def test_control_is_unreachable(face: Face, fault: Any) -> None:
    """It is a TailnetConnectError after the retries, or TailnetTimeout with the cause."""
    # The child must start within connect_timeout, too: half a second on a loaded machine.
    how: dict[str, Any] = {"connect_timeout": 2}
    retry = RetryPolicy(retries=1, first_delay=0.1, jitter=0)
    with Testnet() as net, managed(face, net, "far", retry=retry, **how) as tailnet:
        net.control.fault(fault)
        with pytest.raises(tailnets.TailnetConnectError, match="last of 2 attempts"):
            face.up(tailnet)
        # The deadline comes after the first attempt, which "hang" makes as long as it may be.
        retry = RetryPolicy(retries=1, first_delay=60, jitter=0)
        with managed(face, net, "late", retry=retry, **how) as late:
            with pytest.raises(tailnets.TailnetTimeout) as caught:
                face.up(late, timeout=4 if fault == "hang" else 2)
            assert isinstance(caught.value.__cause__, tailnets.TailnetConnectError)
            assert face.interrupted(lambda: face.up(late)) < 0.3
        eventually("no child is left", lambda: not daemons())
        net.control.fault("none")
        assert face.up(tailnet, timeout=20).handle.hostname == "far"


def test_what_it_says(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    """Its lines are logged at debug level, by node; the key is nowhere, also a wrong one."""
    key = "a-key-of-any-form-0123456789"
    caplog.set_level(logging.DEBUG)
    with Testnet(auth_key=key) as net:
        for name, error in (("good", None), ("bad", tailnets.TailnetAuthError)):
            fields = {"auth_key": key + "-bad"} if error else {}
            with managed(face, net, name, log_level="debug", **fields) as tailnet:
                with pytest.raises(error) if error else contextlib.nullcontext():
                    face.up(tailnet)
                for pid in daemons():
                    assert key not in read(pid, "cmdline") + read(pid, "environ")
                eventually("it speaks", lambda: f"[{name}] tailscaled: " in caplog.text)  # noqa: B023
    lines = [r for r in caplog.records if "tailscaled: " in r.getMessage()]
    assert {(r.name, r.levelname) for r in lines} == {("tailnet", "DEBUG")}
    assert key not in caplog.text
    assert "retry" not in caplog.text


# --- who it is ---


def test_one_machine_by_its_state(face: Face, net: Testnet, tmp_path: Path) -> None:
    """It comes back with its address, as the other backend's node too; one has it at a time."""
    fields: dict[str, Any] = {"state_dir": tmp_path / "state", "connect_timeout": 3}
    ips = set()
    for backend in ("tailscaled", "tailscaled", "embedded", "tailscaled"):
        fields |= {"backend": backend, "retry": RetryPolicy(retries=0)}
        with managed(face, net, f"kept-{face.name}", **fields) as tailnet:
            ips.add(face.up(tailnet, timeout=10).handle.ips)
            for other in ("tailscaled", "embedded"):
                thief = managed(face, net, "thief", **{**fields, "backend": other})
                with thief as it, pytest.raises(tailnets.TailnetStateLocked, match=str(tmp_path)):
                    face.up(it)
            lines = ["try: tn.up()", "except TailnetStateLocked: print('locked')"]
            env = {"TS_STATE_DIR": f"{tmp_path}/state", "TS_EPHEMERAL": "false"}
            with program(net, *lines, **env) as running:
                assert running.communicate(timeout=30)[0] == "locked\n"
    assert len(ips) == 1
    assert not [f for f in (tmp_path / "state").rglob("*") if f.stat().st_mode & 0o077]


@pytest.mark.parametrize("backend", ["tailscaled", "embedded"])
def test_it_comes_back_without_a_login(face: Face, tmp_path: Path, backend: str) -> None:
    """Who has logged in once need not again: neither a person, nor a key that is used up."""
    fields: dict[str, Any] = {"state_dir": tmp_path / "state", "backend": backend}
    fields["retry"] = RetryPolicy(retries=0)
    with Testnet(require_login=True) as net:
        with managed(face, net, "once", **fields) as tailnet:
            ips = face.up(tailnet, on_login=net.control.complete_login, timeout=20).handle.ips
        with managed(face, net, "once", **fields) as tailnet:
            assert face.up(tailnet, timeout=10).handle.ips == ips


def test_two_at_a_time(face: Face, net: Testnet) -> None:
    """Two of one process have each a child, and so has one of another process with their name."""
    with managed(face, net, "program") as one, managed(face, net, "program") as two:
        names = {face.up(each).handle.hostname for each in (one, two)}
        with program(net, "print(tn.up().hostname, flush=True)", "sys.stdin.read()") as other:
            assert other.stdout
            names.add(other.stdout.readline())
            assert len({directory(n) for n in daemons() | daemons(other.pid)}) == 3
            other.communicate(timeout=30)
        assert len(names) == 3
