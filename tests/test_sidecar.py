"""A node of a tailscaled that runs: joining, listening, who may, and who is believed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tailnet import (
    AsyncTailnet,
    Tailnet,
    TailnetAuthError,
    TailnetConfig,
    TailnetConfigError,
    TailnetError,
    TailnetHandle,
    TailnetListenError,
    TailnetNotRunning,
    TailnetUnsupported,
)
from tailnet.testing import Testnet
from tests.conftest import WAIT, eventually, nothing_left
from tests.daemon import NOBODY, Daemon, Proxy, Rule
from tests.faces import Face

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

PORT = iter(range(3000, 9000))

# What the daemon's socket is asked first is answered within a second; the rest is Python's.
AT_ONCE = 1.5

LOAD = """
import os, socket, sys, time
from tailnet import *
from tailnet import _lib
from tailnet.testing import Testnet
from tests.daemon import Daemon, LocalAPI
_lib.stats()  # loads the library: the next user may not read where Python is
path, uid = sys.argv[1], int(sys.argv[2])
if uid:
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
def up(**fields):
    return Tailnet(backend="tailscaled", tailscaled_socket=path, **fields).up()
def attempt(call):
    began = time.monotonic()
    try:
        print(call(), flush=True)
    except TailnetError as e:
        print(type(e).__name__, e.retryable, time.monotonic() - began < 1.5, e, flush=True)
"""


@contextlib.contextmanager
def program(
    path: str, code: str, uid: int = 0, before: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """Run a program of some user beside a daemon; it is killed at the end."""
    with subprocess.Popen(
        [*before, sys.executable, "-c", LOAD + textwrap.dedent(code), path, str(uid)],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    """Return the next line of a program; a hang is the test's time limit."""
    assert process.stdout
    return process.stdout.readline().rstrip("\n")


def tell(process: subprocess.Popen[str]) -> None:
    """Let a program that reads a line go on."""
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def beside(daemon: Daemon | str, **fields: Any) -> Tailnet:
    """Return a node of a daemon, or of what there is at a path."""
    path = daemon if isinstance(daemon, str) else daemon.socket
    return Tailnet(backend="tailscaled", tailscaled_socket=path, **fields)


def served(daemon: Daemon) -> dict[int, str]:
    """Return what the daemon forwards in the foreground: port to target."""
    blocks = (daemon.serve_config().get("Foreground") or {}).values()
    entries = [(block or {}).get("TCP") or {} for block in blocks]
    return {int(port): entry["TCPForward"] for each in entries for port, entry in each.items()}


def knows(daemon: Daemon, *others: TailnetHandle) -> None:
    """Wait until a daemon and others know each other."""
    ip = daemon.status()["TailscaleIPs"][0]
    for other in others:
        eventually("the daemon knows", lambda: str(other.ip) in str(daemon.status()["Peer"]))  # noqa: B023
        eventually("it is known", lambda: ip in str([p.ips for p in other.status().peers]))  # noqa: B023


@pytest.fixture(scope="module")
def daemon(net: Testnet) -> Iterator[Daemon]:
    """A daemon on the module's tailnet."""
    with Daemon(net) as each:
        each.up("daemon")
        yield each


@pytest.fixture(scope="module")
def peer(net: Testnet, daemon: Daemon) -> Iterator[TailnetHandle]:
    """Somebody else of the tailnet."""
    with net.tailnet("peer") as each:
        knows(daemon, each)
        yield each


@pytest.fixture(scope="module")
def node(daemon: Daemon) -> Iterator[TailnetHandle]:
    """A node of the daemon."""
    with beside(daemon) as each:
        yield each


def greet(peer: TailnetHandle, ip: object, port: int, listener: Any) -> None:
    """Make one connection that works."""
    with peer.dial((str(ip), port), timeout=WAIT) as near:
        listener.settimeout(WAIT)
        far, address = listener.accept()
        with far:
            assert address[0] == str(peer.ip)
            far.sendall(b"hello")
            assert near.recv(5, socket.MSG_WAITALL) == b"hello"


# --- joining ---


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

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            refused(face, short, TailnetNotRunning, f"{short} does not answer as a tailscaled")
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


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


def test_too_old_to_listen(daemon: Daemon, peer: TailnetHandle) -> None:
    """A daemon that knows no PROXY header: listening says so and leaves nothing; dialing works."""

    def older(body: bytes, ask: Callable[[bytes], tuple[int, bytes]]) -> tuple[int, bytes]:
        return ask(body.replace(b'"ProxyProtocol"', b'"Unknown"'))

    rules: dict[str, Rule] = {"serve-config": older}
    with nothing_left(), Proxy(daemon.socket, rules) as proxy, beside(proxy.path) as node:
        port = next(PORT)
        with pytest.raises(TailnetUnsupported, match=r"too old.*upgrade"):
            node.listen(f":{port}")
        with peer.listen(f":{port}") as listener, node.dial((str(peer.ip), port)) as near:
            far, _ = listener.accept()
            with far:
                near.sendall(b"x")
                assert far.recv(1) == b"x"
        eventually("nothing is left in the daemon", lambda: port not in served(daemon), timeout=1)


@root
def test_a_user_who_is_no_operator(daemon: Daemon, peer: TailnetHandle) -> None:
    """Whom the daemon permits reading only: all works but listening, until it permits that."""
    code = """
        node = up()
        print(node.hostname, node.status().state, next(node.watch()))
        print(node.whois(%(ip)r).node.hostname)
        for host in %(hosts)r:
            with node.dial((host, %(port)d), timeout=20) as near:
                print(near.recv(5, socket.MSG_WAITALL))
        attempt(lambda: node.listen(":%(port)d"))
        sys.stdin.readline()
        with node.listen(":%(port)d") as listener:
            print("listens", flush=True)
            conn, peer = listener.accept()
            print(peer[0], flush=True)
            conn.sendall(b"hello"), conn.close()
    """
    port = next(PORT)
    hosts = [str(peer.ip), peer.hostname, peer.fqdn]
    with (
        peer.listen(f":{port}") as there,
        program(
            daemon.socket, code % {"ip": str(peer.ip), "hosts": hosts, "port": port}, NOBODY
        ) as other,
    ):
        for _ in hosts:
            there.settimeout(WAIT)
            with there.accept()[0] as far:
                far.sendall(b"hello")
        assert said(other).startswith("daemon Running ")
        assert said(other) == "peer"
        assert [said(other) for _ in hosts] == ["b'hello'"] * 3
        text = said(other)
        assert text.startswith("TailnetNotRunning False True ")
        assert "sudo tailscale set --operator=$USER" in text
        daemon.cli("set", "--operator=nobody")
        try:
            tell(other)
            assert said(other) == "listens"
            with peer.dial((daemon.status()["TailscaleIPs"][0], port)) as near:
                assert near.recv(5, socket.MSG_WAITALL) == b"hello"
            assert said(other) == str(peer.ip)
        finally:
            daemon.cli("set", "--operator=")


# --- ports ---


def test_a_port_of_tailscale_serve(daemon: Daemon, node: TailnetHandle) -> None:
    """What `tailscale serve` has is not taken, and stays as it is; port 0 takes another."""
    port = 10002  # the first that port 0 would pick
    daemon.cli("serve", "--bg", f"--tcp={port}", "tcp://127.0.0.1:1")
    try:
        before = daemon.serve_config()["TCP"]
        with pytest.raises(TailnetListenError, match=f"port {port}.*tailscale serve") as caught:
            node.listen(f":{port}")
        assert caught.value.errno == errno.EADDRINUSE
        with node.listen(":0") as listener, node.listen(":0") as second:
            ports = {listener.getsockname()[1], second.getsockname()[1]}
            assert len(ports) == 2
            assert not ports & {0, port}
            assert set(served(daemon)) >= ports
        eventually("they are gone", lambda: not ports & served(daemon).keys())
        assert daemon.serve_config()["TCP"] == before
    finally:
        daemon.cli("serve", f"--tcp={port}", "off")


def test_serve_reset(daemon: Daemon, node: TailnetHandle, peer: TailnetHandle) -> None:
    """An administrator who resets what is served does not end what listens."""
    port = next(PORT)
    with nothing_left(), node.listen(f":{port}") as listener:
        daemon.cli("serve", "reset")
        eventually("it is served again", lambda: port in served(daemon))
        greet(peer, node.ip, port, listener)


HOLD = """
    node = up()
    listener = node.listen(":%d")
    print("listens", flush=True)
    sys.stdin.readline()
"""


def test_a_port_of_another_program(daemon: Daemon, node: TailnetHandle) -> None:
    """What another program of ours listens on is not taken, and goes on working."""
    port = next(PORT)
    with program(daemon.socket, HOLD % port) as other:
        assert said(other) == "listens"
        before = served(daemon)[port]
        with pytest.raises(TailnetListenError, match=str(port)) as caught:
            node.listen(f":{port}")
        assert caught.value.errno == errno.EADDRINUSE
        assert served(daemon)[port] == before
    eventually("its end gives the port back", lambda: port not in served(daemon))
    node.listen(f":{port}").close()


def test_two_programs_at_once(daemon: Daemon, node: TailnetHandle, peer: TailnetHandle) -> None:
    """Two that listen and close at the same time lose nothing, of each other's or their own."""
    code = """
        node, first = up(), %d
        api = LocalAPI(path)
        def ours():
            return f'"{port}":' in api.ask("serve-config")[1].decode()
        print("ready", flush=True)
        sys.stdin.readline()
        held = []
        for round in range(20):
            listener = node.listen(f":{first + round}")
            port = first + round
            if not ours():
                print("lost", port)
            if round %% 2:
                listener.close()
            else:
                held.append(listener)
        print("done", flush=True)
        sys.stdin.readline()
    """
    first, second = 20000, 20100
    expected = {base + n for base in (first, second) for n in range(0, 20, 2)}
    port = next(PORT)
    with (
        node.listen(f":{port}") as bystander,
        program(daemon.socket, code % first) as one,
        program(daemon.socket, code % second) as two,
    ):
        assert [said(one), said(two)] == ["ready", "ready"]
        tell(one)
        tell(two)
        assert [said(one), said(two)] == ["done", "done"]
        assert served(daemon).keys() >= {port, *expected}
        greet(peer, node.ip, port, bystander)
    eventually("all is gone", lambda: not served(daemon).keys() & expected)


@pytest.mark.parametrize("number", [0, 1], ids=["port 0", "a port"])
def test_somebody_was_faster(daemon: Daemon, number: int) -> None:
    """A write that the daemon refuses, because another was first, is made again."""
    port, refusals = number and next(PORT), iter([412] * 3)

    def lose(body: bytes, ask: Callable[[bytes], tuple[int, bytes]]) -> tuple[int, bytes]:
        if body and (status := next(refusals, 0)):
            return status, b"etag mismatch"
        return ask(body)

    with (
        Proxy(daemon.socket, {"serve-config": lose}) as proxy,
        beside(proxy.path) as node,
        node.listen(f":{port}") as listener,
    ):
        assert listener.getsockname()[1] in served(daemon)


@pytest.mark.parametrize("how", ["listener", "node", "SIGINT", "SIGTERM", "SIGKILL"])
def test_entries_are_gone(daemon: Daemon, node: TailnetHandle, how: str) -> None:
    """However it ends, what was ours is gone, and what is others' stays."""
    code = """
        node = up()
        listener, also = node.listen(":%d"), node.listen(":%d")
        print("listens", flush=True)
        sys.stdin.readline()
        %s
        print("closed", flush=True)
        sys.stdin.readline()
    """
    mine, also, others, theirs = (next(PORT) for _ in range(4))
    ending = {"listener": "listener.close(), also.close()", "node": "node.close()"}.get(how, "pass")
    daemon.cli("serve", "--bg", f"--tcp={theirs}", "tcp://127.0.0.1:1")
    with node.listen(f":{others}"), program(daemon.socket, code % (mine, also, ending)) as other:
        assert said(other) == "listens"
        assert served(daemon).keys() >= {mine, also, others}
        if how.startswith("SIG"):
            other.send_signal(signal.Signals[how])
            other.wait(WAIT)
        else:
            tell(other)
            assert said(other) == "closed"
        eventually("ours are gone", lambda: not served(daemon).keys() & {mine, also})
        assert others in served(daemon)
        assert str(theirs) in daemon.serve_config()["TCP"]
    daemon.cli("serve", f"--tcp={theirs}", "off")


# --- one line of configuration ---


def echo(config: TailnetConfig, call: Callable[[str, int], bytes]) -> bytes:
    """Serve one connection; `call` is somebody else."""
    with Tailnet(config) as tn, tn.listen(":7") as listener, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(call, str(tn.ip), 7)
        conn, peer = listener.accept()
        with conn:
            who = tn.whois(peer).node.hostname.encode()
            conn.sendall(who + b" said " + conn.recv(100))
        return answer.result(WAIT)


def echo_async(config: TailnetConfig, call: Callable[[str, int], bytes]) -> bytes:
    """As echo, with asyncio's streams."""

    async def main() -> bytes:
        async with AsyncTailnet(config) as tn:
            done = asyncio.Event()

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                who = (await tn.whois(writer)).node.hostname.encode()
                writer.write(who + b" said " + await reader.read(100))
                await writer.drain()
                writer.close()
                done.set()

            server = await asyncio.start_unix_server(serve, sock=await tn.listen(":7"))
            async with server:
                answer = await asyncio.to_thread(call, str(tn.ip), 7)
                await done.wait()
            return answer

    return asyncio.run(asyncio.wait_for(main(), WAIT))


@pytest.mark.parametrize("how", [echo, echo_async], ids=["sync", "asyncio"])
@pytest.mark.parametrize("backend", ["embedded", "tailscaled"])
def test_one_line_moves_a_program(
    net: Testnet, daemon: Daemon, peer: TailnetHandle, backend: str, how: Callable[..., bytes]
) -> None:
    """The same program, and another configuration."""
    config = {
        "embedded": net.config("echo"),
        "tailscaled": TailnetConfig(backend="tailscaled", tailscaled_socket=daemon.socket),
    }[backend]

    def call(ip: str, port: int) -> bytes:
        eventually("it is known", lambda: ip in str([p.ips for p in peer.status().peers]))
        with peer.dial((ip, port), timeout=WAIT) as near:
            near.sendall(b"hello")
            return b"".join(iter(lambda: near.recv(100), b""))

    assert how(config, call) == b"peer said hello"
