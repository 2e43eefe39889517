"""The tests' own `tailscaled` does what tests/support/daemon.py says."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tailnet import TailnetHandle
from tailnet.testing import Testnet
from tests.support.daemon import (
    NAMESPACE,
    NOBODY,
    Daemon,
    LocalAPI,
    Proxy,
    Rule,
    as_user,
    in_namespace,
)
from tests.support.daemon import run as run_program
from tests.support.held import nothing_left
from tests.support.waiting import WAIT, eventually

RUNNING = 6  # ipn.State
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def know(node: TailnetHandle, ip: str) -> None:
    """Wait until a node has heard of an address."""
    eventually(f"it knows {ip}", lambda: ip in str([peer.ips for peer in node.status().peers]))


def processes(daemon: Daemon) -> list[str]:
    """Return the processes that were started with its socket."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"--socket={daemon.socket}".encode() in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
    return found


def test_it_joins(net: Testnet, daemon: Daemon, client: TailnetHandle) -> None:
    """It is a node as others are."""
    status = daemon.status()
    assert (status["BackendState"], status["TUN"]) == ("Running", False)
    assert daemon.cli("ip", "-4").strip() == status["TailscaleIPs"][0]
    assert daemon.serve_config() == {}
    know(client, status["TailscaleIPs"][0])
    assert "daemon" in {peer.hostname for peer in client.status().peers}
    assert "daemon" in {node.hostname for node in net.control.nodes()}


def test_its_ends() -> None:
    """A restart keeps the address, by force too; what ends is gone, and so is what it had.

    Tailscale's test control server asks a node that is known for the key again, which a restarted
    daemon has not: so one that asks for none.
    """
    with nothing_left(), Testnet(auth_key="") as net, Daemon(net) as daemon:
        daemon.up("ending")
        ips = daemon.status()["TailscaleIPs"]
        for end in (daemon.stop, daemon.kill, lambda: None):
            end()
            assert daemon.running() == bool(processes(daemon))
            daemon.restart()
            eventually("it is back", lambda: daemon.status()["BackendState"] == "Running")
            assert daemon.status()["TailscaleIPs"] == ips
        daemon.down()
        assert daemon.status()["BackendState"] == "Stopped"
        daemon.cli("up")
        daemon.logout()
        assert daemon.status()["BackendState"] == "NeedsLogin"
    assert not processes(daemon)
    assert not daemon.directory.exists()


def test_it_ends_with_the_tests(net: Testnet) -> None:
    """Nobody stops it where the process that started it is killed."""
    with Daemon(net) as daemon:
        os.close(daemon._alive)  # as the kernel does then
        daemon._alive = os.open("/dev/null", os.O_RDONLY)
        eventually("it ends", lambda: not daemon.running())


def test_it_says_why_it_does_not_start(net: Testnet, capfd: pytest.CaptureFixture[str]) -> None:
    """Its log is there, its directory is not."""
    daemon = Daemon(net, "--no-such-flag")
    with pytest.raises(AssertionError, match="ended"), daemon:
        pass
    assert "no-such-flag" in capfd.readouterr().err
    assert not daemon.directory.exists()


@root
def test_users(net: Testnet, daemon: Daemon) -> None:
    """It may be somebody's, and somebody else may ask it."""
    with Daemon(net, user=NOBODY) as other:
        other.up("nobody")
        assert other.process
        assert Path(f"/proc/{other.process.pid}").stat().st_uid == NOBODY
        command = [other._tailscale, "--socket=" + daemon.socket]
        assert "daemon" in as_user(NOBODY, [*command, "status"], env=daemon.env)
        with pytest.raises(AssertionError, match="denied"):
            as_user(NOBODY, [*command, "logout"], env=daemon.env)


def dialed(path: str, host: str, port: int) -> socket.socket:
    """Return a connection by LocalAPI's dial."""
    api = LocalAPI(path)
    dial = {"Dial-Host": host, "Dial-Port": str(port), "Dial-Network": "tcp"}
    headers = {"Connection": "upgrade", "Upgrade": "ts-dial", **dial}
    api.request("POST", "/localapi/v0/dial", headers=headers)
    sock = api.sock.dup()  # what comes with the answer's head stays in the answer's buffer
    answer = api.getresponse()
    assert answer.status == 101, answer.read()
    sock.settimeout(WAIT)
    api.close()
    return sock


def test_a_proxy_passes(daemon: Daemon, client: TailnetHandle) -> None:
    """A dial and a stream go through it, and end when they end."""
    know(client, daemon.status()["TailscaleIPs"][0])
    eventually("the daemon knows", lambda: client.hostname in str(daemon.status()["Peer"]))
    with nothing_left(), contextlib.ExitStack() as held:
        with Proxy(daemon.socket, {}) as proxy, client.listen(":81") as listener:
            near = held.enter_context(dialed(proxy.path, str(client.ip), 81))
            with listener.accept()[0] as far:
                near.sendall(b"x" * 100_000)
                assert len(far.recv(100_000, socket.MSG_WAITALL)) == 100_000
                far.sendall(b"back")
                assert near.recv(10) == b"back"
            assert near.recv(10) == b""
            bus = held.enter_context(contextlib.closing(LocalAPI(proxy.path).watch(2)))
            assert next(bus)["State"] == RUNNING
            idle = held.enter_context(contextlib.closing(LocalAPI(proxy.path)))
            idle.connect()
        assert next(bus, None) is None


def test_a_proxy_changes(daemon: Daemon) -> None:
    """A rule sees what is asked and what is answered, and may answer itself."""

    def older(body: bytes, ask: Callable[[bytes], tuple[int, bytes]]) -> tuple[int, bytes]:
        status, answer = ask(body)
        return status, json.dumps({**json.loads(answer), "Version": "1.50.0"}).encode()

    rules: dict[str, Rule] = {
        "status": older,
        "serve-config": lambda body, ask: ask(body.replace(b'"ProxyProtocol"', b'"Unknown"')),
        "logout": lambda _body, _ask: (403, b"logout access denied"),
    }
    forward = {"TCP": {"82": {"TCPForward": "127.0.0.1:9", "ProxyProtocol": 2}}}
    with nothing_left(), Proxy(daemon.socket, rules) as proxy:
        ask = LocalAPI(proxy.path).ask
        assert json.loads(ask("status")[1])["Version"] == "1.50.0"
        assert ask("logout", "POST") == (403, b"logout access denied")
        assert ask("serve-config", "POST", json.dumps(forward).encode())[0] == 200
        assert daemon.serve_config()["TCP"] == {"82": {"TCPForward": "127.0.0.1:9"}}
        assert ask("serve-config", "POST", b"{}")[0] == 200
        assert ask("prefs")[0] == 200
    assert daemon.status()["BackendState"] == "Running"


def with_tun() -> None:
    """In a namespace: the kernel has the address, for connections in and out."""
    with Testnet() as net, Daemon(net, tun="tailscale0") as daemon, net.tailnet("caller") as caller:
        daemon.up("kernel")
        ip = daemon.status()["TailscaleIPs"][0]
        assert daemon.status()["TUN"]
        know(caller, ip)
        with socket.create_server((ip, 80)) as listener, caller.dial(f"{ip}:80") as near:
            listener.settimeout(WAIT)
            far, peer = listener.accept()
            assert peer[0] == str(caller.ip)
            with far:
                far.sendall(b"from the kernel")
                assert near.recv(100) == b"from the kernel"
        with caller.listen(":81") as there:
            near = socket.create_connection((str(caller.ip), 81), WAIT)  # type: ignore[assignment]
            with near, there.accept()[0] as other:
                near.shutdown(socket.SHUT_WR)
                assert other.recv(1) == b""
                other.sendall(b"after the end")
                assert near.recv(100) == b"after the end"


def namespaces_work() -> bool:
    """Report whether this machine lets us make one with a TUN device."""
    with contextlib.suppress(OSError, AssertionError):
        run_program([*NAMESPACE, "ip", "tuntap", "add", "dev", "tun0", "mode", "tun"])
        return True
    return False


@pytest.mark.skipif(not namespaces_work(), reason="needs root, unshare(1), ip(8), /dev/net/tun")
def test_with_a_tun() -> None:
    """A daemon with a TUN works in a namespace."""
    in_namespace(with_tun)
