"""A node of a tailscaled that runs: whose connections are believed, and on which network it is."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import re
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from tailnet import TailnetHandle, TailnetListenError, TailnetUnreachable
from tailnet.testing import Testnet
from tests.support.daemon import NAMESPACE, NOBODY, Daemon, as_user, in_namespace
from tests.support.daemon import run as run_program
from tests.support.held import nothing_left
from tests.support.sidecar import PORT, beside, greet, knows, program, root, said, served
from tests.support.threads import Pool, finished, started
from tests.support.waiting import WAIT, eventually

# --- who is believed ---

SEND = """
import json, socket, sys
host, port, data = json.load(sys.stdin)
try:
    with socket.create_connection((host, port), 20) as s:
        s.sendall(bytes.fromhex(data))
        print(len(s.recv(1)))
except ConnectionError as e:
    print(type(e).__name__)
"""


def where(target: str) -> tuple[str, int]:
    """Return the address of a target."""
    host, port = target.rsplit(":", 1)
    return host, int(port)


def header(dst: object, port: int, src: str = "100.64.0.99", more: bytes = b"") -> bytes:
    """Spell a PROXY header as the daemon does."""
    addresses = socket.inet_aton(src) + socket.inet_aton(str(dst))
    body = addresses + (4000).to_bytes(2, "big") + port.to_bytes(2, "big") + more
    return b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + len(body).to_bytes(2, "big") + body


def ended(target: str, data: bytes) -> str:
    """Connect, send that and no more, and return how the other side ends the connection."""
    try:
        with socket.create_connection(where(target), WAIT) as conn:
            conn.sendall(data)
            conn.shutdown(socket.SHUT_WR)
            return conn.recv(1).hex() or "end"
    except OSError as e:  # also ENOTCONN: it was reset before that
        return "silence" if isinstance(e, TimeoutError) else "reset"


def nothing_came(listener: Any) -> None:
    """Nobody waits for accept()."""
    listener.settimeout(0.05)
    with pytest.raises(TimeoutError):
        listener.accept()


@root
def test_another_user_forges(
    daemon: Daemon, node: TailnetHandle, peer: TailnetHandle, caplog: pytest.LogCaptureFixture
) -> None:
    """A user who connects to where the daemon forwards is refused, whatever header is sent."""
    port = next(PORT)
    with nothing_left(), node.listen(f":{port}") as listener:
        host, number = where(served(daemon)[port])
        data = json.dumps([host, number, (header(node.ip, port) + b"hello").hex()])
        answer = as_user(NOBODY, ["/usr/bin/python3", "-I", "-c", SEND], input=data)
        assert answer.strip() in {"ConnectionResetError", "BrokenPipeError"}
        nothing_came(listener)
        eventually("it is logged", lambda: f"uid {NOBODY}" in caplog.text)
        assert f"refused a connection to {host}" in caplog.text
        greet(peer, node.ip, port, listener)


@root
def test_root_forges(net: Testnet, peer: TailnetHandle, caplog: pytest.LogCaptureFixture) -> None:
    """Where the daemon is another user's, even root is refused."""
    port = next(PORT)
    with Daemon(net, user=NOBODY) as daemon:
        daemon.up("unprivileged")
        knows(daemon, peer)
        with beside(daemon) as node, node.listen(f":{port}") as listener:
            assert ended(served(daemon)[port], header(node.ip, port)) == "reset"
            nothing_came(listener)
            eventually("it is logged", lambda: "it is of uid 0" in caplog.text)
            greet(peer, node.ip, port, listener)


def test_a_peer_does_not_find_the_port(
    daemon: Daemon, node: TailnetHandle, peer: TailnetHandle
) -> None:
    """The daemon forwards ports that nobody serves to 127.0.0.1: there is nothing of ours."""
    data = header(node.ip, port := next(PORT))
    with contextlib.ExitStack() as stack:
        while True:  # until nobody else's server has that port of 127.0.0.1
            listener = stack.enter_context(node.listen(f":{port}"))
            host, number = where(served(daemon)[port])
            with contextlib.suppress(OSError):
                other = stack.enter_context(socket.create_server(("127.0.0.1", number)))
                break
            listener.close()
        assert host != "127.0.0.1"
        other.settimeout(WAIT)
        stack.enter_context(peer.dial((str(node.ip), number), timeout=WAIT)).sendall(data)
        found = stack.enter_context(other.accept()[0])
        assert found.recv(len(data), socket.MSG_WAITALL) == data
        nothing_came(listener)


BAD: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda _: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "version 1": lambda _: b"PROXY TCP4 100.64.0.99 100.64.0.1 4000 80\r\n",
    "malformed": lambda h: h[:12] + b"\x20" + h[13:],
    "oversized": lambda h: h[:14] + b"\xff\xff" + h[16:] + bytes(0xFFFF - 12),
    "cut off": lambda h: h[:20],
    "of another address": lambda h: h[:20] + b"\x64\x40\x63\x63" + h[24:],
}


@root
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_header(daemon: Daemon, node: TailnetHandle, peer: TailnetHandle, kind: str) -> None:
    """From the daemon's own user, what has no good header ends, and nothing else does."""
    port = next(PORT)
    with nothing_left(), node.listen(f":{port}") as listener:
        data = BAD[kind](header(node.ip, port))
        assert ended(served(daemon)[port], data) in {"reset", "end"}
        greet(peer, node.ip, port, listener)
        nothing_came(listener)


@root
def test_no_header_at_all(daemon: Daemon, node: TailnetHandle, peer: TailnetHandle) -> None:
    """Who says nothing for five seconds is ended; others are served meanwhile."""
    port = next(PORT)
    with nothing_left(), node.listen(f":{port}") as listener:
        target = where(served(daemon)[port])
        with socket.create_connection(target, WAIT) as silent:
            began = time.monotonic()
            greet(peer, node.ip, port, listener)
            assert time.monotonic() - began < 4
            with pytest.raises(ConnectionResetError):
                silent.recv(1)
            assert 4 < time.monotonic() - began < 8
        nothing_came(listener)


@pytest.mark.parametrize("parallel", [1, 20], ids=["one by one", "at once"])
def test_short_connections(
    node: TailnetHandle, peer: TailnetHandle, caplog: pytest.LogCaptureFixture, parallel: int
) -> None:
    """Peers that connect, send and close at once arrive whole, or are refused with a warning.

    Who sent a connection is known only while the daemon still holds its end: some come too late.
    """
    port, count = next(PORT), 300
    got: list[bytes] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                conn, _ = listener.accept()
                with conn:
                    got.append(b"".join(iter(functools.partial(conn.recv, 100), b"")))

    def call(number: int) -> None:
        with peer.dial((str(node.ip), port), timeout=WAIT) as near:
            near.sendall(b"%d" % number)

    def all_told() -> bool:
        left_out = re.findall(r"(\d+) more such lines.*refused a connection", caplog.text)
        refused = caplog.text.count("refused a connection") - len(left_out)
        return len(got) + refused + sum(map(int, left_out)) == count

    with node.listen(f":{port}", backlog=count) as listener:
        listener.settimeout(None)
        thread = started(accept)
        with Pool(parallel) as pool:
            list(pool.map(call, range(count)))
        try:
            eventually("all have arrived or been refused", all_told)
        finally:
            listener.close()
            finished(thread)
            print(f"short connections, {parallel} at once: {len(got)} of {count} arrived")
    assert set(got) <= {b"%d" % n for n in range(count)}
    assert len(set(got)) == len(got) > 0


# --- namespaces ---


def namespaces_work() -> bool:
    """Report whether this machine lets us make one with a TUN device."""
    with contextlib.suppress(OSError, AssertionError):
        run_program([*NAMESPACE, "ip", "tuntap", "add", "dev", "tun0", "mode", "tun"])
        return True
    return False


namespaces = pytest.mark.skipif(not namespaces_work(), reason="needs root, unshare(1), ip(8)")


@namespaces
def test_another_network_namespace(daemon: Daemon, peer: TailnetHandle) -> None:
    """A socket shared with a container: nothing could come in, which it says; dialing works."""
    code = """
        node = up()
        attempt(lambda: node.listen(":%d"))
        with node.dial((%r, %d), timeout=20) as near:
            print(near.recv(5, socket.MSG_WAITALL))
    """
    port = next(PORT)
    with (
        peer.listen(f":{port}") as there,
        program(daemon.socket, code % (port, str(peer.ip), port), before=NAMESPACE) as other,
    ):
        text = said(other)
        assert text.startswith("TailnetUnsupported False True ")
        assert "network namespace" in text
        there.settimeout(WAIT)
        with there.accept()[0] as far:
            far.sendall(b"hello")
        assert said(other) == "b'hello'"
    assert port not in served(daemon)


def through_a_tun() -> None:
    """In a namespace: connections are the kernel's, both ways."""
    with (
        Testnet() as net,
        Daemon(net, tun="tailscale0") as daemon,
        net.tailnet("caller") as caller,
    ):
        daemon.up("kernel")
        knows(daemon, caller)
        v4, v6 = daemon.status()["TailscaleIPs"]

        def usable() -> bool:
            with (
                contextlib.suppress(OSError),
                socket.create_server((v6, 0), family=socket.AF_INET6),
            ):
                return True
            return False

        eventually("the kernel has its IPv6 address", usable)
        with beside(daemon) as node:
            with node.listen(":80") as listener:
                assert not served(daemon)
                for ip in (v4, v6):
                    with caller.dial((ip, 80), timeout=WAIT) as near:
                        listener.settimeout(WAIT)
                        far, address = listener.accept()
                        with far:
                            assert address == near.getsockname()
                            near.shutdown(socket.SHUT_WR)
                            assert far.recv(1) == b""
                            far.sendall(b"after the end")
                            assert near.recv(13, socket.MSG_WAITALL) == b"after the end"
                for host in (v4, v6, node.hostname):
                    with node.dial((host, 80), timeout=WAIT) as near, listener.accept()[0] as far:
                        near.sendall(b"to itself")
                        assert far.recv(9, socket.MSG_WAITALL) == b"to itself"
                for there in (v4, v6):
                    with pytest.raises(TailnetListenError) as caught:
                        node.listen(f"[{there}]:80")
                    assert caught.value.errno == errno.EADDRINUSE
            with socket.create_server((v4, 81)):
                with pytest.raises(TailnetListenError, match="another program") as caught:
                    node.listen(":81")
                assert caught.value.errno == errno.EADDRINUSE
            node.listen(":80").close()
            node.listen(":0").close()
            with caller.listen(":82") as listener:
                for host in (str(caller.ip), str(caller.ips[1]), "caller", caller.fqdn):
                    with node.dial((host, 82), timeout=WAIT) as near:
                        far, address = listener.accept()
                        with far:
                            assert address == near.getsockname()
                            near.shutdown(socket.SHUT_WR)
                            assert far.recv(1) == b""
                            far.sendall(b"after the end")
                            assert near.recv(13, socket.MSG_WAITALL) == b"after the end"
            for ip in ("192.0.2.1", "127.0.0.1", "100.64.77.77"):
                with pytest.raises(TailnetUnreachable, match="not on the tailnet"):
                    node.dial((ip, 80), timeout=WAIT)
            assert node.whois(caller.ip).node.hostname == "caller"


@namespaces
def test_with_a_tun() -> None:
    """A daemon with a TUN: sockets of the kernel, which end each way by itself."""
    in_namespace(through_a_tun)
