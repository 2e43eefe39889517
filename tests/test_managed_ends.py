"""A tailscaled that the library runs as its child: how it ends."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tailnet import TailnetHandle, TailnetNotRunning, TailnetStateLocked
from tailnet.models import StateChanged
from tailnet.testing import Testnet
from tests.support.daemon import stopped
from tests.support.faces import Face
from tests.support.managed import daemons, managed, no_child_left, program, read
from tests.support.threads import Pool
from tests.support.waiting import eventually, sits_in, waits


@pytest.fixture(autouse=True)
def _leaves_nothing(net: Testnet) -> Iterator[None]:
    del net  # it comes first, and stays
    with no_child_left():
        yield


ENDS: dict[str, Callable[[Any], None]] = {
    "by itself": lambda running: running.stdin.close(),
    "Ctrl-C": lambda running: os.killpg(running.pid, signal.SIGINT),
    "SIGTERM": lambda running: running.terminate(),
    "kill -9": lambda running: os.killpg(running.pid, signal.SIGKILL),
}
STAY = ["print(pid, flush=True)", "sys.stdin.read()"]
FORK = ["if not (pid := os.fork()): time.sleep(60)", "os.setpgid(pid, pid)", *STAY]


@pytest.mark.parametrize("code", [["pid = 0", *STAY], FORK], ids=["", "forked"])
@pytest.mark.parametrize("end", ENDS)
def test_it_ends_with_the_program(net: Testnet, end: str, code: list[str]) -> None:
    """However a program ends, its child does, though a forked one of the program lives on."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        where = Path(short)
        with program(net, "os.setpgid(0, 0)", "tn.up()", *code, TMPDIR=short) as running:
            assert running.stdout
            forked = int(running.stdout.readline())
            (daemon,) = daemons(running.pid)
            # A signal between Python's last look and the system call would not be seen.
            eventually("it waits", lambda: sits_in("read", running.pid))
            ENDS[end](running)
            eventually("the child has ended", lambda: not read(daemon, "cmdline"), 4)
            if forked:
                assert read(forked, "cmdline"), "it lives"
                os.kill(forked, signal.SIGKILL)
            running.wait(10)
        if end in ("SIGTERM", "kill -9"):  # the next program removes what is left, unless young
            for path in where.iterdir():
                os.utime(path, (0, 0))
            with program(net, "tn.up().close()", TMPDIR=short) as running:
                running.communicate(timeout=30)
        assert not [*where.iterdir()]


def received(listener: Any) -> str:
    """Return the digest of what one connection brings."""
    seen, (conn, _) = hashlib.sha256(), listener.accept()
    with conn:
        while data := conn.recv(1 << 20):
            seen.update(data)
    return seen.hexdigest()


@pytest.mark.parametrize("end", ["by itself", "Ctrl-C"])
def test_what_a_program_wrote(net: Testnet, client: TailnetHandle, end: str) -> None:
    """What it wrote before it ended, or was interrupted, arrives."""
    lines = ["os.setpgid(0, 0)", f"pid = tn.up().dial('{client.ip}:80', timeout=20)"]
    with client.listen(":80") as listener, Pool(1) as pool:
        receiving = pool.submit(received, listener)
        with program(net, *lines, "pid.sendall(bytes(4 << 20))", *STAY) as running:
            assert running.stdout
            running.stdout.readline()
            eventually("it waits", lambda: sits_in("read", running.pid))
            ENDS[end](running)
            assert receiving.result(30) == hashlib.sha256(bytes(4 << 20)).hexdigest()


def test_8_mib_10_times_of_10(face: Face, net: Testnet, client: TailnetHandle) -> None:
    """Dial, send 8 MiB, close, leave: the peer has every byte, and leaving takes no 3 s."""
    data = hashlib.shake_128(b"8 MiB").digest(8 << 20)
    with client.listen(":87") as listener, Pool(1) as pool:
        for _ in range(10):
            receiving = pool.submit(received, listener)
            with managed(face, net, f"sender-{face.name}") as tailnet:
                conn = face.up(tailnet).dial(f"{client.ip}:87")
                conn.send(data)
                conn.close()
                started = time.monotonic()
                face.leave(tailnet)
                assert time.monotonic() - started < 4
            assert receiving.result(30) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies(face: Any, net: Testnet, how: signal.Signals) -> None:
    """watch() and calls say so, who sits in accept is woken, close() is quick."""
    with managed(face, net, f"mortal-{face.name}") as tailnet, contextlib.ExitStack() as closing:
        node = face.up(tailnet)
        pool = closing.enter_context(Pool(1))
        listener = closing.enter_context(contextlib.closing(node.listen(":80")))
        accepting = pool.submit(listener.accept, None)
        at_it = face._tasks if face.name == "asyncio" else lambda: all(map(waits, pool.threads))
        eventually("somebody sits in accept", at_it)
        watch = node.handle.watch()
        closing.callback(watch.close)

        def said(state: str) -> bool:
            event = next(watch) if face.name == "sync" else face.run(anext(watch))
            return isinstance(event, StateChanged) and event.state == state

        eventually("it runs", lambda: said("Running"))
        os.kill(daemons().pop(), how)
        eventually("it does not", lambda: said("NoState"), 1)
        with pytest.raises(ConnectionAbortedError, match="this listener or its node was closed"):
            accepting.result(1)
        for call in (node.status, lambda: node.dial("x:1"), lambda: node.listen(":81")):
            started = time.monotonic()
            with pytest.raises(TailnetNotRunning, match=r"ended.*(killed|without an error)"):
                call()
            assert time.monotonic() - started < 1
        started = time.monotonic()
        face.leave(tailnet)
        assert time.monotonic() - started < 1
        with pytest.raises(OSError, match="closed"):
            listener.accept(1)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_what_its_end_tells_to_do(
    face: Face, net: Testnet, tmp_path: Path, how: signal.Signals
) -> None:
    """Of who is dead, or hangs: close this one, then make a new Tailnet. Then it works."""
    kept: dict[str, Any] = {"state_dir": tmp_path / "state"}
    with managed(face, net, "kept", **kept) as tailnet:
        node = face.up(tailnet)
        os.kill(pid := daemons().pop(), how)
        if how == signal.SIGSTOP:
            stopped(pid)
        advice = r"close\(\) this node, then make a new Tailnet"
        with pytest.raises(TailnetNotRunning, match=advice):
            node.listen(":80")
        with managed(face, net, "kept", **kept) as early, pytest.raises(TailnetStateLocked):
            face.up(early)
        started = time.monotonic()
        face.leave(tailnet)
        assert time.monotonic() - started < 5
        with managed(face, net, "kept", **kept) as new:
            assert face.up(new).handle.ips == node.handle.ips
        assert not daemons()


REAPERS = {
    "ignored": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "reaped": "threading.Thread(target=os.waitpid, args=[-1, 0], daemon=True).start()",
}


@pytest.mark.parametrize("reaper", REAPERS)
def test_a_program_that_reaps_all(net: Testnet, reaper: str) -> None:
    """The node works until it is closed, and is not said to have ended before it has."""
    lines = ["tn.up()", REAPERS[reaper], "print(tn.up().status().state)"]
    lines += ["now = time.monotonic()", "tn.close()", "print(time.monotonic() - now < 3)"]
    with program(net, *lines) as running:
        out = running.communicate(timeout=30)[0]
    assert out == "Running\nTrue\n"
