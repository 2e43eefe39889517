"""What every face of every backend does: listen, accept, dial, carry, end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import hashlib
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tailnet import (
    TailnetClosed,
    TailnetConfigError,
    TailnetListenError,
    TailnetNameError,
    TailnetPeerNotFound,
    TailnetRefused,
    TailnetResourceError,
    TailnetTimeout,
    TailnetUnreachable,
)
from tailnet.testing import Testnet
from tests.support import backends
from tests.support.backends import DIFFERENCES, Embedded
from tests.support.faces import LIMIT, Async, Conn, Face, Node, Sync, Trio, hears
from tests.support.held import nothing_left
from tests.support.limits import descriptors
from tests.support.nodes import knows
from tests.support.threads import Pool
from tests.support.waiting import eventually

Pair = tuple[Node, Node]

PORT = iter(range(2000, 10000))


@pytest.fixture(scope="module", params=[Sync, Async, Trio], ids=lambda face: face.name)
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    """Each face; the asynchronous one on asyncio and on trio."""
    with contextlib.closing(request.param()) as each:
        yield each


@pytest.fixture(scope="module", params=DIFFERENCES)
def backend(request: pytest.FixtureRequest, net: Testnet) -> Iterator[Embedded]:
    """Each backend."""
    with backends.backend(request.param, net) as each:
        yield each


@pytest.fixture(autouse=True)
def _declared(request: pytest.FixtureRequest, backend: Embedded) -> None:
    """Expect a test to fail where the backend is declared to differ."""
    name = request.node.function.__name__
    if why := DIFFERENCES[backend.name].get(name):
        request.applymarker(pytest.mark.xfail(reason=why, strict=True))


@contextlib.contextmanager
def connected(nodes: Pair) -> Iterator[tuple[Conn, Conn]]:
    """Yield the two ends of one connection: the server's and the client's."""
    server, client = nodes
    listener = server.listen(f":{next(PORT)}")
    with contextlib.closing(listener):
        near = client.dial((str(server.handle.ip), listener.socket.getsockname()[1]))
        far, _ = listener.accept()
        with contextlib.closing(near), contextlib.closing(far):
            yield far, near


def everything(conn: Conn) -> bytes:
    """Receive until the end."""
    return b"".join(iter(conn.receive, b""))


# --- listen, accept, dial ---


@pytest.mark.parametrize("where", ["", "0.0.0.0", "[::]", "own IPv4", "own IPv6"])
def test_listen_and_accept(nodes: Pair, where: str) -> None:
    """A connection arrives at whatever names this node, and both ends agree on both addresses."""
    server, client = nodes
    v4, v6 = sorted(server.handle.ips, key=lambda ip: ip.version)
    host = {"own IPv4": str(v4), "own IPv6": f"[{v6}]"}.get(where, where)
    named = v6 if where == "own IPv6" else v4
    target = v6 if where in ("own IPv6", "[::]") else v4
    with nothing_left(), contextlib.closing(server.listen(f"{host}:80")) as listener:
        assert listener.socket.getsockname() == (str(named), 80)
        with contextlib.closing(client.dial((str(target), 80))) as near:
            far, peer = listener.accept()
            with contextlib.closing(far):
                assert peer == far.socket.getpeername()
                assert near.socket.getsockname()[0] == peer[0]
                assert near.socket.getpeername() == far.socket.getsockname() == (str(target), 80)
                assert peer[0] in map(str, client.handle.ips)
                near.send(b"ping")
                hears(far, b"ping")


def test_the_dialing_end_knows_its_port(nodes: Pair) -> None:
    """What the dialing end says of itself is what the accepting end says of it."""
    with connected(nodes) as (far, near):
        assert near.socket.getsockname() == far.socket.getpeername()


def test_port_0_picks_one(nodes: Pair) -> None:
    """Two listeners on port 0 get ports of their own, which are dialed as any other."""
    server, client = nodes
    with (
        contextlib.closing(server.listen(":0")) as first,
        contextlib.closing(server.listen(":0")) as second,
    ):
        ports = [listener.socket.getsockname()[1] for listener in (first, second)]
        assert 0 not in ports
        assert ports[0] != ports[1]
        with contextlib.closing(client.dial((str(server.handle.ip), ports[1]))):
            conn, _ = second.accept()
            conn.close()


@pytest.mark.parametrize("form", ["IPv4", "IPv6", "short", "fqdn", "fqdn.", "UPPER", "tuple"])
def test_dial_by_any_name(nodes: Pair, form: str) -> None:
    """A peer is dialed by address, by short name and by full name."""
    server, client = nodes
    handle = server.handle
    v6 = next(ip for ip in handle.ips if ip.version == 6)
    address: dict[str, str | tuple[str, int]] = {
        "IPv4": f"{handle.ip}:81",
        "IPv6": f"[{v6}]:81",
        "short": f"{handle.hostname}:81",
        "fqdn": f"{handle.fqdn}:81",
        "fqdn.": f"{handle.fqdn}.:81",
        "UPPER": f"{handle.hostname.upper()}:81",
        "tuple": (handle.hostname, 81),
    }
    with (
        contextlib.closing(server.listen(":81")) as listener,
        contextlib.closing(client.dial(address[form])) as near,
    ):
        conn, _ = listener.accept()
        conn.close()
        assert near.receive() == b""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_dial_over_the_hosts_network(face: Face, backend: Embedded, host: str) -> None:
    """With `allow_host_network`, what is not on the tailnet is dialed as by any program."""
    config = backend.config(f"wide-{face.name}").model_copy(update={"allow_host_network": True})
    with socket.create_server(("127.0.0.1", 0)) as server, face.node(config) as node:
        address = server.getsockname()
        with nothing_left(), contextlib.closing(node.dial((host, address[1]))) as near:
            far, peer = server.accept()
            with far:
                assert near.socket.getpeername() == address
                assert near.socket.getsockname() == peer
                near.send(b"ping")
                assert far.recv(10) == b"ping"
                far.sendall(b"pong")
                far.shutdown(socket.SHUT_WR)
                assert everything(near) == b"pong"
                near.send(b"late")
                near.end()
                assert far.recv(10) == b"late"
                assert far.recv(10) == b""


def test_a_dial_over_the_hosts_network_that_fails(face: Face, backend: Embedded) -> None:
    """A name that neither the tailnet nor the host knows, and too few descriptors, are told."""
    config = backend.config(f"wide-{face.name}").model_copy(update={"allow_host_network": True})
    with socket.create_server(("127.0.0.1", 0), backlog=20) as server, face.node(config) as node:
        with pytest.raises(TailnetNameError, match="neither"):
            node.dial(("a" * 64, 80))  # too long to be asked for
        connected = []
        for left in range(8):
            with descriptors(left):
                try:
                    node.dial(server.getsockname()).close()
                except TailnetResourceError:
                    continue
                connected.append(left)
        assert connected == list(range(connected[0], 8))
        assert connected[0] > 0


def test_a_node_dials_itself(nodes: Pair) -> None:
    """A node reaches its own listener, by name and by address."""
    server, _ = nodes
    with contextlib.closing(server.listen(":82")) as listener:
        for host in (server.handle.hostname, str(server.handle.ip)):
            with contextlib.closing(server.dial(f"{host}:82")) as near:
                conn, peer = listener.accept()
                assert peer[0] == str(server.handle.ip)
                conn.close()
                assert near.receive() == b""


def test_whois_names_the_caller(nodes: Pair) -> None:
    """A connection, its peer's address in any form, and an IP address name the same caller."""
    server, client = nodes
    with connected(nodes) as (far, _):
        peer = far.socket.getpeername()
        for target in (far.socket, peer, peer[0], f"{peer[0]}:{peer[1]}", client.handle.ip):
            who = server.whois(target)
            assert who.node.name == client.handle.fqdn
            assert client.handle.ip in who.node.ips
            assert who.user.login
    with pytest.raises(TailnetPeerNotFound, match=r"100\.64\.77\.77"):
        server.whois("100.64.77.77")
    with pytest.raises(TailnetConfigError, match="whois"):
        server.whois(object())


def test_whois_is_kept(nodes: Pair) -> None:
    """Whois of the same address again is the same answer, for a moment."""
    server, client = nodes
    ip = str(client.handle.ip)
    eventually("it is the same", lambda: server.whois(ip) is server.whois(ip))


@pytest.mark.parametrize("kind", ["disco", "tsmp", "icmp", "peerapi"])
def test_a_peer_answers_a_ping(nodes: Pair, kind: str) -> None:
    """A ping of each kind names the peer that answered and the time of the round trip."""
    server, client = nodes
    for target in (server.handle.hostname, server.handle.fqdn, server.handle.ip):
        answer = client.ping(target, kind=kind)
        assert answer.ip == server.handle.ip
        assert answer.name.partition(".")[0] == server.handle.hostname
        assert 0 < answer.latency < 10
        assert bool(answer.endpoint or answer.relay) == (kind == "disco")
        assert answer.url.startswith("http://") == (kind == "peerapi")


def test_a_ping_that_makes_no_sense(nodes: Pair) -> None:
    """A ping of nobody, of this node, or of no kind says so, and asks nobody."""
    server, client = nodes
    with pytest.raises(TailnetUnreachable, match=r"100\.64\.77\.77.*no matching peer"):
        client.ping("100.64.77.77")
    with pytest.raises(TailnetNameError, match="nobody"):
        client.ping("nobody")
    with pytest.raises(TailnetConfigError, match="this node itself"):
        client.ping(client.handle.ip)
    for wrong in ({"kind": "smoke"}, {"size": -1}, {"size": 1 << 20}, {"size": "1"}):
        with pytest.raises(TailnetConfigError, match=next(iter(wrong))):
            client.ping(server.handle.ip, **wrong)
    with pytest.raises(TailnetConfigError, match="size"):
        client.ping(server.handle.ip, kind="tsmp", size=100)


def packets(path: Path) -> list[bytes]:
    """Return the packets of a pcap file, without what Tailscale puts before each."""
    data = path.read_bytes()
    magic, major, minor, _, _, _, link = struct.unpack_from("<IHHiIII", data)
    assert (magic, major, minor, link) == (0xA1B2C3D4, 2, 4, 147)
    found, at = [], 24
    while at < len(data):
        _, _, size, whole = struct.unpack_from("<IIII", data, at)
        assert size == whole
        found.append(data[at + 20 : at + 16 + size])  # path, and no address was rewritten
        assert data[at + 18 : at + 20] == b"\0\0"
        at += 16 + size
    assert at == len(data)
    return found


def begins(near: Conn, path: Path) -> None:
    """Send until a capture has packets, and then the end of the line."""

    def captures() -> bool:
        near.send(b".")
        return path.stat().st_size > 24

    eventually("it captures", captures)
    near.send(b"\n")


def test_a_capture_has_the_packets(nodes: Pair, backend: Embedded, tmp_path: Path) -> None:
    """What two nodes say to each other is in the file, from the first packet to the last."""
    server, client = nodes
    with contextlib.closing(server.listen(":0")) as listener:
        for n in range(2):  # one may follow another
            path = tmp_path / f"{n}.pcap"
            with client.capture(path) as capture:
                near = client.dial((str(server.handle.ip), listener.socket.getsockname()[1]))
                far, _ = listener.accept()
                with contextlib.closing(near), contextlib.closing(far):
                    if backend.name == "tailscaled":  # which says that it captures before it does
                        begins(near, path)
                        while far.receive(1) != b"\n":
                            pass
                    near.send(b"these very words")
                    hears(far, b"these very words")
                with pytest.raises(TailnetTimeout, match="the capture to end"):
                    capture.wait(0.01)
            assert any(b"these very words" in packet for packet in packets(path))
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            capture.close()


def test_a_capture_may_end_by_itself(nodes: Pair, tmp_path: Path) -> None:
    """One for some seconds ends after them; one at a time is all that a node has."""
    _, client = nodes
    first = client.capture(tmp_path / "first.pcap", seconds=0.5)
    with pytest.raises(TailnetConfigError, match="is being captured already"):
        client.capture(tmp_path / "second.pcap")
    first.wait(LIMIT)
    assert packets(tmp_path / "first.pcap") is not None
    client.capture(tmp_path / "second.pcap", seconds=0.1).wait(LIMIT)
    first.close()


def test_closing_a_capture_wakes_who_waits_for_its_end(nodes: Pair, tmp_path: Path) -> None:
    """Both find the file complete, and the node free for the next one."""
    _, client = nodes
    for _ in range(3):
        capture = client.capture(tmp_path / "a.pcap")
        with Pool(1) as pool:
            waiting = pool.submit(capture.wait, LIMIT)
            with pytest.raises(concurrent.futures.TimeoutError):
                waiting.result(0.1)
            capture.close()
            waiting.result(LIMIT)
        assert packets(tmp_path / "a.pcap") is not None


def test_a_capture_that_cannot_be(nodes: Pair, tmp_path: Path) -> None:
    """What is no place for one, or no time, is an error before anything begins."""
    _, client = nodes
    for seconds in (0, -1, float("nan"), float("inf"), "1"):
        with pytest.raises(TailnetConfigError, match="seconds"):
            client.capture(tmp_path / "x", seconds=seconds)
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/null", 3, "a\0b"):
        with pytest.raises(TailnetConfigError, match=r"^capture: "):
            client.capture(path)
    with pytest.raises(IsADirectoryError):
        client.capture(tmp_path)
    with pytest.raises(FileNotFoundError):
        client.capture(tmp_path / "nowhere" / "x")


# --- what cannot be ---


def test_two_listeners_on_one_port(nodes: Pair) -> None:
    """A port that is taken, by the same or an overlapping address, is EADDRINUSE."""
    server, _ = nodes
    with contextlib.closing(server.listen(":83")), nothing_left():
        for address in (":83", "0.0.0.0:83", f"{server.handle.ip}:83"):
            with pytest.raises(TailnetListenError, match="83") as caught:
                server.listen(address)
            assert caught.value.errno == errno.EADDRINUSE
    server.listen(":83").close()  # given back


def test_listen_on_what_is_not_ours(nodes: Pair) -> None:
    """An address of somebody else is EADDRNOTAVAIL, and says which this node has."""
    server, client = nodes
    with nothing_left(), pytest.raises(TailnetListenError, match=str(server.handle.ip)) as caught:
        server.listen(f"{client.handle.ip}:84")
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize(
    "address", ["80", ":http", ":70000", "name:80", "fd7a::1:80", "", 80, ("", "80"), None]
)
def test_listen_on_nonsense(nodes: Pair, address: Any) -> None:
    """An address that makes no sense is a TailnetConfigError that quotes it."""
    with nothing_left(), pytest.raises(TailnetConfigError) as caught:
        nodes[0].listen(address)
    assert str(address) in str(caught.value)


@pytest.mark.parametrize("address", ["server", ":80", "server:", "server:0", "server:x", 80, None])
def test_dial_nonsense(nodes: Pair, address: Any) -> None:
    """What is no address cannot be dialed either."""
    with nothing_left(), pytest.raises(TailnetConfigError) as caught:
        nodes[1].dial(address)
    assert str(address) in str(caught.value)


def test_refused(nodes: Pair) -> None:
    """A peer on which nobody listens refuses, as the kernel's would."""
    server, client = nodes
    with nothing_left(), pytest.raises(TailnetRefused, match=r":9\b") as caught:
        client.dial(f"{server.handle.hostname}:9")
    assert caught.value.errno == errno.ECONNREFUSED
    assert isinstance(caught.value, ConnectionRefusedError)


@pytest.mark.parametrize("name", ["nobody", "nobody.offline.ts.net", "nobody.example.com"])
def test_unknown_name(nodes: Pair, name: str) -> None:
    """A name that the tailnet does not know is an error, and nobody else is asked."""
    with nothing_left(), pytest.raises(TailnetNameError, match=name) as caught:
        nodes[1].dial(f"{name}:80")
    assert isinstance(caught.value, socket.gaierror)


@pytest.mark.parametrize("ip", ["192.0.2.1", "127.0.0.1", "[2001:db8::1]", "100.64.77.77"])
def test_not_on_the_tailnet(nodes: Pair, ip: str) -> None:
    """An address that is no peer's is never dialed, on whatever network it is."""
    with nothing_left(), pytest.raises(TailnetUnreachable, match="not on the tailnet") as caught:
        nodes[1].dial(f"{ip}:80")
    assert caught.value.errno == errno.EHOSTUNREACH


# --- carrying ---


def test_200_connections_at_once(nodes: Pair) -> None:
    """200 connections are open at the same time, and each carries its own."""
    server, client = nodes
    count = 200
    with (
        nothing_left(),
        contextlib.closing(server.listen(":85", backlog=count)) as listener,
        Pool(20) as pool,
    ):
        dialing = [pool.submit(client.dial, f"{server.handle.ip}:85") for _ in range(count)]
        accepted: dict[Any, Any] = {}
        for _ in range(count):
            conn, peer = listener.accept()
            accepted[peer] = conn
        assert len(accepted) == count, "each has a name of its own"
        dialed: dict[bytes, Any] = {}
        for number, future in enumerate(dialing):
            near: Any = future.result()
            dialed[number.to_bytes(4, "big")] = near
            near.send(number.to_bytes(4, "big"))
        for far in accepted.values():
            near = dialed.pop(far.receive(4))
            near.close()
            assert far.receive() == b""
            far.close()


@pytest.mark.timeout(240)
def test_256_mib_both_ways_at_once(nodes: Pair) -> None:
    """256 MiB arrive unchanged in each direction, at the same time."""
    size, piece = 256 << 20, 1 << 20
    blocks = [
        hashlib.shake_128(bytes([n])).digest(piece) for n in range(7)
    ]  # 7 does not divide 256
    wanted = hashlib.sha256()
    for n in range(size // piece):
        wanted.update(blocks[n % len(blocks)])

    def send(conn: Conn) -> None:
        for n in range(size // piece):
            conn.send(blocks[n % len(blocks)])

    def receive(conn: Conn) -> tuple[int, str]:
        seen, length = hashlib.sha256(), 0
        while length < size and (data := conn.receive(piece)):
            seen.update(data)
            length += len(data)
        return length, seen.hexdigest()

    pool: Pool
    with nothing_left(), connected(nodes) as ends, Pool(4) as pool:
        sending = [pool.submit(send, end) for end in ends]
        for receiving in [pool.submit(receive, end) for end in ends]:
            assert receiving.result() == (size, wanted.hexdigest())
        for done in sending:
            done.result()


def test_half_close(nodes: Pair) -> None:
    """After one side has said its last word, the other's late reply still arrives, both ways."""
    for swap in (False, True):
        with nothing_left(), connected(nodes) as ends:
            asking, answering = (ends[1], ends[0]) if swap else ends
            asking.send(b"question")
            asking.end()
            assert everything(answering) == b"question"
            answering.send(b"late ")
            answering.send(b"reply" * 100_000)
            answering.close()
            assert everything(asking) == b"late " + b"reply" * 100_000


def test_closing_with_unread_data(nodes: Pair) -> None:
    """Close with data unread: the answer given before arrives, and the sender is stopped."""
    with nothing_left(), connected(nodes) as (far, near):
        near.send(b"hardly read")
        assert far.receive(1) == b"h"
        far.send(b"go away")
        far.close()
        hears(near, b"go away")

        def stopped() -> bool:
            try:
                near.send(b"more" * 1000)
            except ConnectionError:
                return True
            return False

        eventually("the sender is stopped", stopped)


def ended(conn: Conn) -> bool:
    """Report whether a connection ends within a moment; it is closed then."""
    try:
        conn.receive(timeout=0.2)
    except TimeoutError:
        return False
    except ConnectionResetError:
        pass
    conn.close()
    return True


def test_a_full_backlog_refuses(nodes: Pair, backend: Embedded) -> None:
    """When nobody accepts, the peers beyond the backlog are refused; then there is room again."""
    server, client = nodes
    with contextlib.closing(server.listen(":86", backlog=2)) as listener:
        waiting = []

        def refused() -> bool:
            try:
                near = client.dial(f"{server.handle.ip}:86")
                if backend.refuses_late and ended(near):
                    return True
            except TailnetRefused:
                return not backend.refuses_late
            waiting.append(near)
            return False

        eventually("the backlog is full", refused)
        assert 2 <= len(waiting) <= 8
        for near in waiting:
            conn, _ = listener.accept()
            conn.close()
            near.close()
        near = client.dial(f"{server.handle.ip}:86")
        conn, peer = listener.accept()
        assert peer[0] == str(client.handle.ip)
        near.close()
        conn.close()


# --- waiting, and giving up ---


@pytest.fixture(scope="module")
def silent() -> Iterator[Testnet]:
    """A control server that accepts and never answers."""
    with Testnet() as testnet:
        testnet.control.fault("hang")
        yield testnet


@pytest.fixture(params=["accept", "recv", "dial", "up"])
def waiting(
    request: pytest.FixtureRequest, face: Face, net: Testnet, silent: Testnet, nodes: Pair
) -> Iterator[Callable[..., object]]:
    """Each call that waits for what never comes; it takes a timeout, None for none."""
    server, client = nodes
    with nothing_left(), contextlib.ExitStack() as closing:
        if request.param == "accept":
            listener = closing.enter_context(contextlib.closing(server.listen(f":{next(PORT)}")))
            yield lambda timeout=None: listener.accept(timeout)
        elif request.param == "recv":
            far, _ = closing.enter_context(connected(nodes))
            yield lambda timeout=None: far.receive(timeout=timeout)
        elif request.param == "dial":
            net.control.add_fake_nodes(1)  # in the network map, and nowhere else
            eventually("the client sees it", lambda: any(fakes(client)))
            address = f"{next(fakes(client))}:80"
            yield lambda timeout=None: client.dial(address, timeout=timeout)
        else:
            tailnet: Any = face.tailnet(silent.config("pending"))
            closing.callback(face.leave, tailnet)
            yield lambda timeout=None: face.up(tailnet, timeout=timeout)


def fakes(node: Node) -> Iterator[str]:
    """Return the addresses of peers that do not exist."""
    return (str(p.ips[0]) for p in node.status().peers if p.hostname.startswith("fake-"))


def test_it_times_out(waiting: Callable[..., object]) -> None:
    """What waits ends at its deadline, says so, and leaves nothing."""
    for _ in range(5):
        started = time.monotonic()
        with pytest.raises(TimeoutError, match=r"timed out|^$"):
            waiting(timeout=0.1)
        assert 0.1 <= time.monotonic() - started < 5


def test_it_is_interrupted(face: Face, waiting: Callable[..., object]) -> None:
    """Ctrl-C, or a cancelled task, ends what waits within 0.2 s and leaves nothing."""
    assert min(face.interrupted(waiting) for _ in range(5)) < 0.2


def test_a_timed_out_receive_loses_nothing(nodes: Pair) -> None:
    """What comes after a receive that was given up is received by the next one."""
    with connected(nodes) as (far, near):
        with pytest.raises(TimeoutError):
            far.receive(timeout=0.05)
        near.send(b"later")
        hears(far, b"later")


# --- leaving ---


def test_leaving_ends_what_belongs_to_it(face: Face, backend: Embedded, nodes: Pair) -> None:
    """Close a node: accept is woken, peers see their connections end, calls say why."""
    _, client = nodes
    config = backend.config(f"leaving-{face.name}")
    with nothing_left():
        with face.node(config) as node:
            listener = node.listen(":80")
            eventually("the client knows it", lambda: knows(client, node))
            near = client.dial(f"{node.handle.hostname}:80")
            far, _ = listener.accept()
            woken: list[BaseException] = []

            def accept() -> None:
                try:
                    listener.accept(None)
                except OSError as e:
                    woken.append(e)

            with Pool(2) as pool:
                pool.submit(accept)
                leaving = pool.submit(node.close)
                assert near.receive() == b""
                near.close()
                leaving.result()
            assert "closed" in str(woken[0])
            for call in (
                lambda: node.dial("x:1"),
                lambda: node.listen(":1"),
                lambda: node.whois("100.64.0.1"),
                node.status,
                node.handle.watch,
            ):
                with pytest.raises(TailnetClosed, match="leaving"):
                    call()
            node.close()  # again
        far.close()
        listener.close()


@pytest.mark.timeout(240)
def test_what_was_written_arrives_50_times_of_50(
    face: Face, backend: Embedded, nodes: Pair
) -> None:
    """Dial, send 8 MiB, close, leave: the peer has every byte, every time."""
    server, _ = nodes
    data = hashlib.shake_128(b"8 MiB").digest(8 << 20)
    wanted = hashlib.sha256(data).hexdigest()
    with contextlib.closing(server.listen(":87")) as listener, Pool(1) as pool:

        def receive() -> str:
            conn, _ = listener.accept()
            with contextlib.closing(conn):
                return hashlib.sha256(everything(conn)).hexdigest()

        for _ in range(50):
            receiving = pool.submit(receive)
            with face.node(backend.config(f"sender-{face.name}")) as node:
                conn = node.dial(f"{server.handle.ip}:87")
                conn.send(data)
                conn.close()
            assert receiving.result(30) == wanted
