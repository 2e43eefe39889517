"""A connection is a socket: `TailnetSocket` does what programs expect of `socket.socket`."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import gc
import hashlib
import io
import json
import os
import pickle
import select
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tailnet import (
    TailnetConfigError,
    TailnetHandle,
    TailnetListener,
    TailnetRefused,
    TailnetSocket,
)
from tailnet._engine import lib
from tailnet.testing import Testnet
from tests.support.held import nothing_left
from tests.support.nodes import acquaint
from tests.support.threads import Pool
from tests.support.waiting import WAIT, eventually

Ends = tuple[TailnetSocket, TailnetSocket]  # the accepted one, the dialed one


@pytest.fixture(scope="module")
def listener(server: TailnetHandle) -> Iterator[TailnetListener]:
    """What the module's connections arrive at."""
    with server.listen(":80") as listener:
        listener.settimeout(WAIT)
        yield listener


@contextlib.contextmanager
def connected(listener: TailnetListener, client: TailnetHandle) -> Iterator[Ends]:
    """Yield both ends of one connection; whatever waits in them ends."""
    near = client.dial(listener.getsockname(), timeout=WAIT)
    with near:
        far, _ = listener.accept()
        with far:
            near.settimeout(WAIT)
            far.settimeout(WAIT)
            yield far, near


@pytest.fixture
def ends(listener: TailnetListener, client: TailnetHandle) -> Iterator[Ends]:
    """Both ends of one connection, of which nothing is left afterwards."""
    with nothing_left(), connected(listener, client) as both:
        yield both


def abort(far: TailnetSocket, near: TailnetSocket) -> None:
    """Abort a connection from its far end, and wait until the near one was told."""
    near.sendall(b"never read")
    assert far.recv(1) == b"n"
    far.close()  # with data unread, and more is coming: the peer answers with a reset

    def told() -> bool:
        with contextlib.suppress(ConnectionError):
            near.send(b"more")
        return lib.connection_was_reset(near._connection)

    eventually("the reset arrives", told)


@contextlib.contextmanager
def abandoned(
    server: TailnetHandle, client: TailnetHandle
) -> Iterator[tuple[TailnetSocket, Callable[[], None]]]:
    """Yield a connection for which a listener has no room, and what has the listener abort it."""
    with contextlib.ExitStack() as closing:
        listener = closing.enter_context(server.listen(":0", backlog=1))
        dialed = []

        def full() -> bool:
            try:
                dialed.append(closing.enter_context(client.dial(listener.getsockname())))
            except TailnetRefused:
                return True
            return False

        eventually("the backlog is full", full)
        yield dialed[-1], listener.close


def everything(conn: socket.socket) -> bytes:
    """Receive until the end."""
    return b"".join(iter(lambda: conn.recv(1 << 16), b""))


def exactly(conn: socket.socket, size: int) -> bytes:
    """Receive so many bytes."""
    data = b""
    while len(data) < size:
        piece = conn.recv(size - len(data))
        assert piece, "it ended early"
        data += piece
    return data


# --- options ---


@pytest.mark.parametrize(
    ("level", "option"),
    [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY),
        (socket.IPPROTO_TCP, socket.TCP_MAXSEG),
        (socket.IPPROTO_IP, socket.IP_TOS),
        (socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
    ],
)
def test_options_of_tcp_and_ip_are_kept(
    ends: Ends, listener: TailnetListener, level: int, option: int
) -> None:
    """An option of TCP or IP is 0 until it is set, and then reads back in every form."""
    for sock in (*ends, listener):
        assert sock.getsockopt(level, option) == 0
        sock.setsockopt(level, option, 16)
        assert sock.getsockopt(level, option) == 16
        assert sock.getsockopt(level, option, 4) == struct.pack("i", 16)
        sock.setsockopt(level, option, struct.pack("i", 1))
        assert sock.getsockopt(level, option, 4) == struct.pack("i", 1)
        sock.setsockopt(level, option, None, 4)
        assert sock.getsockopt(level, option) == 0


def test_options_of_the_socket_reach_the_kernel(ends: Ends) -> None:
    """An option of SOL_SOCKET is the descriptor's own, and one the kernel refuses raises."""
    for sock in ends:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, struct.pack("i", 1))
        with socket.socket(fileno=os.dup(sock.fileno())) as plain:
            assert plain.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert plain.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED) == 1
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR, 4) == bytes(4)
        with pytest.raises(OSError) as caught:
            sock.getsockopt(socket.SOL_SOCKET, 9999)
        assert caught.value.errno == errno.ENOPROTOOPT


# --- addresses ---


def test_addresses_last_as_long_as_the_socket(ends: Ends) -> None:
    """Both addresses are known after the peer has gone, and raise EBADF after a close."""
    far, near = ends
    own, peer = near.getsockname(), near.getpeername()
    far.close()
    assert everything(near) == b""
    assert (near.getsockname(), near.getpeername()) == (own, peer)
    near.close()
    for ask in (near.getsockname, near.getpeername):
        with pytest.raises(OSError) as caught:
            ask()
        assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("version", [4, 6])
def test_family(server: TailnetHandle, client: TailnetHandle, version: int) -> None:
    """The family is the descriptor's, and that of the address after as_inet()."""
    ip = next(ip for ip in server.ips if ip.version == version)
    inet = socket.AF_INET if version == 4 else socket.AF_INET6
    with nothing_left(), server.listen((str(ip), 81)) as listener, listener.as_inet() as view:
        assert (listener.family, view.family) == (socket.AF_UNIX, inet)
        for accepting, family in ((listener, socket.AF_UNIX), (view, inet)):
            with client.dial((str(ip), 81)) as near:
                far, peer = accepting.accept()
                with far, far.dup() as twin:
                    assert far.family == twin.family == family
                    assert near.family == socket.AF_UNIX
                    assert far.getsockname() == near.getpeername() == (str(ip), 81)
                    assert far.getpeername() == near.getsockname() == peer
                    assert (far.type, far.proto) == (socket.SOCK_STREAM, 0)


def test_repr_says_what_is_connected(ends: Ends) -> None:
    """The repr has both addresses and the descriptor, also of a closed socket."""
    far, near = ends
    text = repr(near)
    for part in ("TailnetSocket", f"fd={near.fileno()}", *map(str, (*near.getpeername(),))):
        assert part in text
    assert str(near.getsockname()) in text
    near.close()
    assert "closed" in repr(near)
    assert str(far.getsockname()) in repr(near)


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_cannot_be_pickled(ends: Ends, copied: Callable[[object], object]) -> None:
    """Pickling and copying are refused, as of every socket."""
    for sock in ends:
        with pytest.raises(TypeError, match="cannot pickle 'TailnetSocket' object"):
            copied(sock)


# --- dup, detach, makefile ---


def test_dup_is_another_of_the_same_kind(ends: Ends) -> None:
    """A dup has the class, the addresses and the timeout, and is closed by itself."""
    far, near = ends
    for timeout in (1.5, 0.0, None):
        near.settimeout(timeout)
        with near.dup() as twin:
            assert type(twin) is TailnetSocket
            assert twin.fileno() != near.fileno()
            assert not os.get_inheritable(twin.fileno())
            assert twin.gettimeout() == timeout
            assert twin.getpeername() == near.getpeername()
            assert twin.getsockname() == near.getsockname()
    near.settimeout(WAIT)
    twin = near.dup()
    near.close()
    with twin:  # the connection goes on until the last has closed
        twin.sendall(b"ping")
        assert far.recv(10) == b"ping"
        far.sendall(b"pong")
        assert twin.recv(10) == b"pong"
    assert far.recv(10) == b""


def test_a_reset_shows_on_a_dup(ends: Ends) -> None:
    """A dup knows of its connection's abort as well."""
    far, near = ends
    with near.dup() as twin:
        near.close()
        abort(far, twin)
        with pytest.raises(ConnectionResetError):
            everything(twin)


@pytest.mark.parametrize("which", [0, 1], ids=["accepted", "dialed"])
def test_detach_leaves_a_plain_socket(
    ends: Ends, server: TailnetHandle, client: TailnetHandle, which: int
) -> None:
    """A detached descriptor carries on in a socket.socket, whose peer whois understands."""
    sock, other = ends[which], ends[1 - which]
    mine, theirs = (client, server) if which else (server, client)
    fd = sock.detach()
    assert sock.fileno() == -1
    sock.close()  # of nothing
    with socket.socket(fileno=fd) as plain:
        assert plain.family == socket.AF_UNIX
        plain.settimeout(WAIT)
        plain.sendall(b"ping")
        assert exactly(other, 4) == b"ping"
        other.sendall(b"pong")
        assert exactly(plain, 4) == b"pong"
        assert mine.whois(plain).node.name == theirs.fqdn
    assert other.recv(1) == b""


@pytest.mark.parametrize("buffering", [-1, 0])
def test_makefile(ends: Ends, buffering: int) -> None:
    """Files on both ends read and write, buffered or not, and keep the connection open."""
    far, near = ends
    with near.makefile("rwb", buffering) as file:
        assert isinstance(file, io.BufferedRWPair if buffering else socket.SocketIO)
        near.close()  # the file goes on
        file.write(b"one\ntwo\n")
        file.flush()
        with far.makefile("r", encoding="ascii") as lines:
            assert lines.readline() == "one\n"
            assert lines.readline() == "two\n"
        far.sendall(b"answer")
        far.shutdown(socket.SHUT_WR)
        assert file.read(6) == b"answer"
        assert file.read(6) == b""
    assert far.recv(1) == b""


# --- every way to receive and to send ---


def receive_from(sock: TailnetSocket, size: int) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield every way to receive."""
    buffer = bytearray(size)
    halves = [memoryview(buffer)[:2], memoryview(buffer)[2:]]
    yield "recv", lambda: sock.recv(size)
    yield "recv_into", lambda: bytes(buffer[: sock.recv_into(buffer)])
    yield "recvfrom", lambda: sock.recvfrom(size)[0]
    yield "recvfrom_into", lambda: bytes(buffer[: sock.recvfrom_into(buffer)[0]])
    yield "recvmsg", lambda: sock.recvmsg(size)[0]
    yield "recvmsg_into", lambda: bytes(buffer[: sock.recvmsg_into(halves)[0]])
    yield "makefile", lambda: sock.makefile("rb", 0).read(size) or b""


def send_to(
    sock: TailnetSocket, data: bytes, path: Path
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield every way to send."""

    def sendfile() -> None:
        with path.open("rb") as file:
            sock.sendfile(file)

    path.write_bytes(data)
    yield "send", lambda: sock.send(data)
    yield "sendall", lambda: sock.sendall(data)
    yield "sendmsg", lambda: sock.sendmsg([data[:1], data[1:]])
    yield "sendfile", sendfile
    yield "makefile", lambda: sock.makefile("wb", 0).write(data)


def test_every_way_to_send_and_receive(ends: Ends, tmp_path: Path) -> None:
    """What is sent in any way is received in any way, without an address."""
    far, near = ends
    for _, send in send_to(near, b"hello", tmp_path / "hello"):
        for name, receive in receive_from(far, 5):
            send()
            got = b""
            while len(got) < 5:
                got += receive()
            assert got == b"hello", name
    near.sendall(b"xy")
    assert far.recvfrom(1) == (b"x", None)
    assert far.recvmsg(1) == (b"y", [], 0, None)


def test_receiving_nothing_is_no_end(ends: Ends) -> None:
    """A receive of no bytes returns none, a peek leaves what it saw, and then comes the rest."""
    far, near = ends
    near.sendall(b"data")
    assert far.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL) == b"data"
    assert far.recv(0) == b""
    assert far.recv_into(bytearray()) == 0
    buffer = bytearray(4)
    assert far.recv_into(buffer, 2) == 2
    assert far.recv_into(memoryview(buffer)[2:], 2, socket.MSG_WAITALL) == 2
    assert buffer == b"data"


def test_sendfile_sends_a_part(ends: Ends, tmp_path: Path) -> None:
    """Send 3 MiB from the middle of a file: it says how much it sent, and all arrive."""
    far, near = ends
    data = hashlib.shake_128(b"file").digest(4 << 20)
    path = tmp_path / "file"
    path.write_bytes(data)
    with Pool(1) as pool, path.open("rb") as file:
        receiving = pool.submit(exactly, far, 3 << 20)
        assert near.sendfile(file, offset=1 << 19, count=3 << 20) == 3 << 20
        assert receiving.result(WAIT) == data[1 << 19 :][: 3 << 20]


@pytest.mark.parametrize("sender", [0, 1], ids=["accepted", "dialed"])
def test_what_was_written_before_close_arrives(ends: Ends, sender: int) -> None:
    """Close right after a write of 4 MiB: every byte arrives, then a clean end."""
    data = hashlib.shake_128(b"close").digest(4 << 20)
    with Pool(1) as pool:
        receiving = pool.submit(everything, ends[1 - sender])
        ends[sender].sendall(data)
        ends[sender].close()
        assert receiving.result(WAIT) == data


# --- timeouts ---


def test_timeouts(ends: Ends) -> None:
    """A timeout raises TimeoutError, a non-blocking socket BlockingIOError, in every receive."""
    far, near = ends
    assert near.gettimeout() == WAIT
    for seconds, blocking, error in ((0.01, True, TimeoutError), (0.0, False, BlockingIOError)):
        far.settimeout(seconds)
        assert far.gettimeout() == seconds
        assert far.getblocking() == blocking
        for name, receive in receive_from(far, 5):
            if (name, blocking) == ("makefile", False):
                continue  # refuses non-blocking sockets by returning None
            with pytest.raises(error):
                receive()
    far.setblocking(True)
    assert far.gettimeout() is None
    near.sendall(b"late")
    assert far.recv(4) == b"late"


def test_a_full_pipe_stops_the_sender(ends: Ends) -> None:
    """Where nobody reads, sendall times out and send would block; what was sent arrives."""
    far, near = ends
    near.setblocking(False)
    sent = 0

    def full() -> bool:
        nonlocal sent
        try:
            sent += near.send(bytes(1 << 16))
        except BlockingIOError:
            return not select.select([], [near], [], 0.1)[1]  # nor does it become writable
        return False

    eventually("the pipe is full", full)
    near.settimeout(0.05)
    with pytest.raises(TimeoutError):
        near.sendall(b"x")
    assert exactly(far, sent) == bytes(sent)
    near.settimeout(WAIT)
    near.sendall(b"y")
    assert far.recv(1) == b"y"


def test_it_can_be_polled(ends: Ends) -> None:
    """A selector sees when there is something to receive, the peer's end included."""
    far, near = ends
    assert select.select([far], [near], [], 0) == ([], [near], [])
    near.sendall(b"x")
    assert select.select([far], [], [], WAIT) == ([far], [], [])
    assert far.recv(1) == b"x"
    near.close()
    assert select.select([far], [], [], WAIT) == ([far], [], [])
    assert far.recv(1) == b""


# --- the end ---


def test_shutdown_of_writing(ends: Ends) -> None:
    """After SHUT_WR the peer reads the end, and can still answer."""
    for near, far in (ends, ends[::-1]):
        near.sendall(b"last")
        near.shutdown(socket.SHUT_WR)
        assert everything(far) == b"last"
        with pytest.raises(BrokenPipeError):
            near.send(b"too late")
        if far is ends[1]:
            far.sendall(b"answer")
            assert exactly(near, 6) == b"answer"


def test_shutdown_of_reading(ends: Ends) -> None:
    """After SHUT_RD nothing more is received, which is no reset, and writing goes on."""
    far, near = ends
    near.shutdown(socket.SHUT_RD)
    assert near.recv(1) == b""
    near.sendall(b"still here")
    assert exactly(far, 10) == b"still here"
    assert near.recv(1) == b""


def test_shutdown_of_both_wakes_who_waits(ends: Ends) -> None:
    """After SHUT_RDWR a thread in recv gets the end, and so does the peer."""
    far, near = ends
    near.settimeout(None)
    waiting = threading.Event()

    def wait() -> bytes:
        waiting.set()
        return near.recv(1)

    with Pool(1) as pool:
        woken = pool.submit(wait)
        assert waiting.wait(WAIT)
        near.shutdown(socket.SHUT_RDWR)
        assert woken.result(WAIT) == b""
    assert far.recv(1) == b""
    near.close()
    with pytest.raises(OSError) as caught:
        near.shutdown(socket.SHUT_RDWR)
    assert caught.value.errno == errno.EBADF


def test_a_reset_shows_in_every_receive(ends: Ends) -> None:
    """Once the peer has aborted, every way to receive raises ConnectionResetError, every time."""
    far, near = ends
    abort(far, near)
    for _ in range(2):
        for name, receive in receive_from(near, 5):
            with pytest.raises(ConnectionResetError) as caught:
                receive()
            assert caught.value.errno == errno.ECONNRESET, name
    with pytest.raises(ConnectionResetError, match=rf"{near.getpeername()[0]} port 80 .* reset"):
        near.recv(1)
    assert near.recv(0) == b""
    near.setblocking(False)
    with pytest.raises(ConnectionResetError):
        near.recv(1)


def test_a_reset_shows_in_every_send(ends: Ends, tmp_path: Path) -> None:
    """Once the peer has aborted, every way to send raises ConnectionResetError."""
    far, near = ends
    abort(far, near)
    with pytest.raises(ConnectionResetError):
        near.recv(1)  # takes the kernel's own report, if there is one
    sends = dict(send_to(near, b"hello", tmp_path / "hello"))
    sends.pop("sendfile")  # sendfile(2) sees the kernel's word only
    for name, send in sends.items():
        with pytest.raises(ConnectionResetError) as caught:
            send()
        assert caught.value.errno == errno.ECONNRESET, name


def test_a_reset_shows_through_a_buffered_file(ends: Ends) -> None:
    """A buffered file raises ConnectionResetError, and does not end as if all were there."""
    far, near = ends
    abort(far, near)
    with near.makefile("rb") as file, pytest.raises(ConnectionResetError):
        file.read()


def test_a_reset_is_no_end_to_asyncio(server: TailnetHandle, client: TailnetHandle) -> None:
    """An asyncio stream on an aborted connection raises ConnectionResetError from read."""

    async def read(near: TailnetSocket, abandon: Callable[[], None]) -> None:
        near.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=near)
        reading = asyncio.create_task(reader.read())
        abandon()
        with pytest.raises(ConnectionResetError, match="on the tailnet was reset"):
            await reading
        assert writer.is_closing()
        writer.close()
        with contextlib.suppress(ConnectionResetError):  # Python 3.11 says it once, 3.12 twice
            await writer.wait_closed()

    with nothing_left(), abandoned(server, client) as (near, abandon):
        asyncio.run(asyncio.wait_for(read(near, abandon), WAIT))


def test_a_reset_wakes_who_waits(server: TailnetHandle, client: TailnetHandle) -> None:
    """A thread that waits in recv gets a ConnectionResetError when the peer aborts."""
    with nothing_left(), abandoned(server, client) as (near, abandon):
        near.settimeout(None)
        with Pool(1) as pool:
            waiting = pool.submit(near.recv, 1)
            abandon()
            with pytest.raises(ConnectionResetError):
                waiting.result(WAIT)


def test_a_clean_end_is_no_reset(ends: Ends) -> None:
    """After an orderly close, a receive returns b"" and a send is a broken pipe at last."""
    far, near = ends
    far.close()
    assert near.recv(1) == b""
    assert not lib.connection_was_reset(near._connection)
    near.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        near.send(b"x")


def test_an_unclosed_socket_warns(listener: TailnetListener, client: TailnetHandle) -> None:
    """Dropped without a close, a socket warns as socket.socket does, and its peer sees the end."""
    with nothing_left():
        held = [client.dial(listener.getsockname())]
        far, _ = listener.accept()
        with far:
            far.settimeout(WAIT)
            with pytest.warns(ResourceWarning, match=r"unclosed <TailnetSocket fd=\d+, own="):
                held.clear()
            assert far.recv(1) == b""


def test_a_socket_keeps_its_node(
    net: Testnet, server: TailnetHandle, listener: TailnetListener
) -> None:
    """A node of which only a connection is left goes on; it is closed, with a warning, after."""
    with nothing_left():
        tn = net.tailnet("kept").up()
        acquaint(tn, server)
        near = tn.dial(listener.getsockname())
        near.settimeout(WAIT)
        far, _ = listener.accept()
        with far:
            del tn
            gc.collect()
            far.sendall(b"still there?")
            assert exactly(near, 12) == b"still there?"
        assert near.recv(1) == b""
        near.close()
        held = [near]
        del near
        with pytest.warns(ResourceWarning, match="unclosed tailnet node"):
            held.clear()


# --- create_connection ---


@pytest.mark.parametrize("timeout", [5.0, None])
def test_create_connection_keeps_the_timeout(
    listener: TailnetListener, client: TailnetHandle, timeout: float | None
) -> None:
    """The new socket has the timeout that was given; one that was dialed has none."""
    with (
        nothing_left(),
        client.create_connection(listener.getsockname(), timeout) as kept,
        client.dial(listener.getsockname(), timeout=5.0) as dialed,
    ):
        assert kept.gettimeout() == timeout
        assert dialed.gettimeout() is None
        for _ in range(2):
            listener.accept()[0].close()


def test_the_default_timeout(listener: TailnetListener, client: TailnetHandle) -> None:
    """Without a timeout the new socket has that of socket.setdefaulttimeout, at both ends."""
    socket.setdefaulttimeout(7.0)
    try:
        with nothing_left(), client.create_connection(listener.getsockname()) as near:
            far, _ = listener.accept()
            with far:
                assert near.gettimeout() == far.gettimeout() == 7.0
            with client.create_connection(listener.getsockname(), None) as other:
                listener.accept()[0].close()
                assert other.gettimeout() is None
    finally:
        socket.setdefaulttimeout(None)
    with nothing_left(), client.create_connection(listener.getsockname()) as near:
        listener.accept()[0].close()
        assert near.gettimeout() is None


def test_create_connection_takes_what_socket_takes(
    listener: TailnetListener, client: TailnetHandle
) -> None:
    """It takes every argument of socket.create_connection, and names of the tailnet."""
    address = ("server", listener.getsockname()[1])
    with (
        nothing_left(),
        client.create_connection(address, 5.0, ("", 0), all_errors=True) as near,
    ):
        listener.accept()[0].close()
        assert near.getpeername() == listener.getsockname()
        assert everything(near) == b""


def test_create_connection_sets_options(listener: TailnetListener, client: TailnetHandle) -> None:
    """socket_options are set, as urllib3 has it; one that cannot be set leaves nothing."""
    address = listener.getsockname()
    nodelay, buffer = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, 4711, 1)
    with nothing_left():
        with client.create_connection(address, 5.0, None, [nodelay]) as near:
            listener.accept()[0].close()
            assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        with pytest.raises(OSError, match="rotocol not available"):
            client.create_connection(address, 5.0, socket_options=[nodelay, buffer])
        listener.accept()[0].close()


# --- plain() ---


def test_plain_is_exactly_a_socket(
    ends: Ends, server: TailnetHandle, client: TailnetHandle
) -> None:
    """plain() is a socket.socket on the same connection, with its timeout; whois knows its peer."""
    far, near = ends
    far.settimeout(7.0)
    with far.plain() as plain:
        assert type(plain) is socket.socket
        assert plain.gettimeout() == 7.0
        far.close()
        plain.sendall(b"hello")
        assert near.recv(5) == b"hello"
        name = plain.getpeername()
        for target in (plain, name, name.decode()):  # the last is gunicorn's REMOTE_ADDR
            assert server.whois(target).node.name == client.fqdn
    assert near.recv(1) == b""


# --- addresses ---


def test_a_nodes_own_address_is_known_in_any_form(
    ends: Ends, server: TailnetHandle, client: TailnetHandle
) -> None:
    """is_own() and status().peer() take text, objects and what sockets have, and always tell."""
    far, near = ends
    status = server.status()
    for ip in server.ips:
        port = f"[{ip}]:80" if ip.version == 6 else f"{ip}:80"
        for form in (ip, str(ip), (str(ip), 80), (ip, 80), port, (str(ip), 80, 0, 0)):
            assert server.is_own(form)
            assert not client.is_own(form)
            assert status.peer(form) == status.self
    assert client.is_own(far)
    assert not server.is_own(far)
    assert server.is_own(near)
    peer = status.peer(near.getsockname())
    assert peer is not None
    assert peer.name == client.fqdn
    assert status.peer("100.64.99.99") is None
    for nonsense in ("", "server", None, 7, (), ("server", 80), "100.64.0.1.2:80"):
        with pytest.raises(TailnetConfigError):
            status.peer(nonsense)  # type: ignore[arg-type]
        with pytest.raises(TailnetConfigError):
            server.is_own(nonsense)
    assert str(server.ip) in json.loads(status.model_dump_json())["self"]["ips"]


# --- whois of what wraps it ---


def test_whois_of_a_plain_accepted_socket(net: Testnet, client: TailnetHandle) -> None:
    """Whois understands a socket that was accepted on a plain listener, by address and whole."""
    with (
        nothing_left(),
        net.tailnet("plain-whois") as tn,
        tn.listen(":80") as listener,
        listener.plain() as plain,
    ):
        acquaint(tn, client)
        near = client.dial(listener.getsockname())
        conn, name = plain.accept()
        near.close()
        with conn:
            assert type(conn) is socket.socket
            assert conn.getpeername() == name
            for target in (conn, name):
                assert tn.whois(target).node.name == client.fqdn


def test_whois_of_a_stream(ends: Ends, server: TailnetHandle, client: TailnetHandle) -> None:
    """Whois understands an asyncio StreamWriter, its transport, and its socket."""
    far, _ = ends
    far.setblocking(False)

    async def ask() -> None:
        _, writer = await asyncio.open_connection(sock=far)
        for target in (writer, writer.transport, writer.get_extra_info("socket")):
            assert server.whois(target).node.name == client.fqdn
        writer.close()
        await writer.wait_closed()

    asyncio.run(asyncio.wait_for(ask(), WAIT))


def test_whois_of_a_tls_socket(ends: Ends, server: TailnetHandle, client: TailnetHandle) -> None:
    """Whois understands a connection that was wrapped in TLS, at either end."""
    far, near = ends
    authority = trustme.CA()
    here = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(server.fqdn).configure_cert(here)
    there = ssl.create_default_context()
    authority.configure_trust(there)
    with Pool(1) as pool:
        accepting = pool.submit(here.wrap_socket, far, server_side=True)
        with (
            there.wrap_socket(near, server_hostname=server.fqdn) as outer,
            accepting.result(WAIT) as inner,
        ):
            assert server.whois(inner).node.name == client.fqdn
            assert client.whois(outer).node.name == server.fqdn
            inner.sendall(b"hello")
            assert outer.recv(5) == b"hello"


def test_dup_shares_options(server: TailnetHandle) -> None:
    """A dup shows the options of TCP that were set."""
    with nothing_left(), server.listen(":0") as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with listener.dup() as twin:
            assert twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, b"\x01\0\0\0")
            assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, -1)
            assert listener.getsockopt(socket.IPPROTO_IP, socket.IP_TTL, 4) == b"\xff" * 4


def test_options_of_a_closed_socket(server: TailnetHandle) -> None:
    """Options of a closed socket raise."""
    listener = server.listen(":0")
    listener.close()
    with pytest.raises(OSError):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def test_a_server_of_the_standard_library_survives_what_cannot_half_close() -> None:
    """Socketserver half-closes after each request, and passes over an OSError from that."""
    ours, theirs = socket.socketpair()
    whole = TailnetSocket(
        ours.detach(), own=("100.64.0.1", 1), peer=("100.64.0.2", 2), connection=0, whole=True
    )
    with (
        theirs,
        socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server,
    ):
        server.shutdown_request(whole)
        assert theirs.recv(1) == b""


def test_sockets_of_the_asynchronous_face_do_not_block(net: Testnet, server: TailnetHandle) -> None:
    """Event loops refuse a socket with any other timeout than 0."""

    async def connect(address: tuple[str, int]) -> list[float | None]:
        async with net.async_tailnet("loop") as tn:
            conns = [await tn.dial(address, timeout=20), await tn.create_connection(address, 20)]
            conns.append(await tn.create_connection(address, socket_options=[]))
            with contextlib.ExitStack() as stack:
                return [stack.enter_context(conn).gettimeout() for conn in conns]

    with server.listen(":0") as listening:
        address = (str(server.ip), listening.getsockname()[1])
        assert asyncio.run(connect(address)) == [0.0, 0.0, 0.0]
