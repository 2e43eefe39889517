"""A node of a tailscaled that runs: listening, and who else has ports of the daemon."""

from __future__ import annotations

import errno
import signal
import socket
from collections.abc import Callable

import pytest

from tailnet import TailnetHandle, TailnetListenError, TailnetUnsupported
from tests.support.daemon import NOBODY, Daemon, Proxy, Rule
from tests.support.held import nothing_left
from tests.support.sidecar import PORT, beside, greet, program, root, said, served, tell
from tests.support.waiting import WAIT, eventually


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


def test_a_port_of_tailscale_serve(daemon: Daemon, node: TailnetHandle) -> None:
    """What `tailscale serve` has is not taken, and stays as it is; port 0 takes another."""
    port = 10002  # the first that port 0 would pick
    daemon.cli("serve", "--bg", f"--tcp={port}", "tcp://127.0.0.1:1")
    try:
        before = daemon.serve_config()["TCP"]
        with pytest.raises(TailnetListenError, match=f"port {port}.*serve status --json") as caught:
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
