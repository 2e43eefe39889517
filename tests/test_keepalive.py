"""Options that decide how long a connection waits for a peer that is gone without a word."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tailnet import TailnetHandle, TailnetListener, TailnetSocket
from tailnet.testing import Testnet
from tests.support.programs import start
from tests.support.threads import Pool
from tests.support.waiting import WAIT, eventually

TCP = socket.IPPROTO_TCP
SOCKET = socket.SOL_SOCKET
OPTIONS = [
    (SOCKET, socket.SO_KEEPALIVE),
    (TCP, socket.TCP_KEEPIDLE),
    (TCP, socket.TCP_KEEPINTVL),
    (TCP, socket.TCP_KEEPCNT),
    (TCP, socket.TCP_USER_TIMEOUT),
]
USUAL = [1, 60, 15, 4, 120_000]
LATE = 10.0  # seconds: 3 are set, and 120 would pass without that

PEER = """
    with Tailnet(TailnetConfig.from_env(hostname="dying")) as tn, tn.listen(":80") as listener:
        print(tn.ip, flush=True)
        held = []
        for address in sys.stdin:
            address = address.strip()
            held.append(tn.dial(address, timeout=20) if address else listener.accept()[0])
            print("held", flush=True)
"""

# Its child sets what its connection then does.
FORKING = """
    with Tailnet(TailnetConfig.from_env(hostname="forking")) as tn:
        conn = tn.dial((os.environ["PEER"], 80), timeout=20)
        if os.fork() == 0:
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
            os._exit(0)
        os.wait()
        print("set", flush=True)
        try:
            conn.recv(1)
        except ConnectionResetError:
            print("reset", flush=True)
"""

# A silent peer is given up after 3 s by default here.
BRIEF = {"TS_NETSTACK_KEEPALIVE_IDLE": "2s", "TS_NETSTACK_KEEPALIVE_INTERVAL": "250ms"}
MUCH = 32 << 20  # bytes: more than all buffers between two programs hold
SENDING = f"""
    import select
    from concurrent.futures import ThreadPoolExecutor

    def send(name, conn):
        try:
            conn.sendall(bytes({MUCH}))
            print(name, "sent", flush=True)
        except OSError as e:
            print(name, type(e).__name__, flush=True)

    with Tailnet(TailnetConfig.from_env(hostname="sending")) as tn, ThreadPoolExecutor() as pool:
        living, dying = ((os.environ[each], 80) for each in ("LIVING", "DYING"))
        conns = [tn.dial(each, timeout=20) for each in (living, living, dying, dying)]
        kept, limited, closed, written = conns
        limited.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1500)
        print("dialed", flush=True)
        for name, conn in (("kept", kept), ("limited", limited), ("closed", closed)):
            pool.submit(send, name, conn)
        sys.stdin.readline()
        print("kept open", not select.select([kept], [], [], 5)[0], flush=True)
        sys.stdin.readline()
        send("written", written)
"""


class Peer:
    """A node in a process of its own, which dies without a word."""

    def __init__(self, net: Testnet) -> None:
        self.process = start(net, PEER)
        assert self.process.stdout
        self.ip = self.process.stdout.readline().strip()

    def dialed_by(self, node: TailnetHandle) -> TailnetSocket:
        """Return a connection that a node dials."""
        conn = node.dial((self.ip, 80), timeout=WAIT)
        self.hold("")
        return conn

    def dials(self, listener: TailnetListener) -> TailnetSocket:
        """Return a connection that a listener accepts."""
        self.hold("{}:{}".format(*listener.getsockname()))
        return listener.accept()[0]

    def hold(self, address: str) -> None:
        """Have it dial an address, or accept, and hold that."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(address + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "held\n"

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def dying(net: Testnet) -> Iterator[Peer]:
    """The peer."""
    peer = Peer(net)
    yield peer
    peer.kill()


def wait_briefly(sock: socket.socket, count: int = 2) -> None:
    """Have a silent peer given up after 1 + count seconds."""
    sock.setsockopt(TCP, socket.TCP_KEEPIDLE, 1)
    sock.setsockopt(TCP, socket.TCP_KEEPINTVL, struct.pack("i", 1))
    sock.setsockopt(TCP, socket.TCP_KEEPCNT, count)


def reset(conn: socket.socket) -> float:
    """Return when it is reset."""
    conn.settimeout(WAIT)
    with contextlib.suppress(ConnectionResetError):
        # A plain socket does not tell a reset from an end.
        assert (type(conn), conn.recv(1)) == (socket.socket, b"")
    return time.monotonic()


def reset_in_asyncio(conn: TailnetSocket) -> float:
    """Set the options of a transport's socket, and return when it is reset."""

    async def read() -> None:
        reader, writer = await asyncio.open_connection(sock=conn)
        for name, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1)):
            writer.get_extra_info("socket").setsockopt(TCP, name, value)
        writer.get_extra_info("socket").setsockopt(TCP, socket.TCP_KEEPCNT, 2)
        try:
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(1), WAIT)
        finally:
            writer.transport.abort()

    conn.setblocking(False)
    asyncio.run(read())
    return time.monotonic()


def is_open(conn: TailnetSocket) -> bool:
    """Report whether a connection has not ended."""
    conn.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        conn.recv(1)
        return False
    return True


def test_a_dead_peer_is_noticed_in_the_time_that_was_set(
    net: Testnet, server: TailnetHandle, dying: Peer
) -> None:
    """However the options came to a connection, they decide when a killed peer is given up."""
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(Pool(16))

        def listener() -> TailnetListener:
            return stack.enter_context(server.listen(":0"))

        def made(make: Callable[[], TailnetSocket]) -> TailnetSocket:
            return stack.enter_context(make())

        forking = stack.enter_context(start(net, FORKING, PEER=dying.ip))
        stack.callback(forking.kill)
        assert forking.stdout
        dying.hold("")
        assert forking.stdout.readline() == "set\n"

        dialed, usual, off, many, data = (made(lambda: dying.dialed_by(server)) for _ in range(5))
        twin, in_asyncio = (made(lambda: dying.dialed_by(server)) for _ in range(2))
        accepted = made(lambda: dying.dials(listener()))
        inheriting, waited = listener(), listener()
        dying.hold("{}:{}".format(*waited.getsockname()))
        for each in (inheriting, waited):
            wait_briefly(each)
        inherited = made(lambda: dying.dials(inheriting))
        dying.hold("{}:{}".format(*inheriting.getsockname()))
        in_c = stack.enter_context(stack.enter_context(inheriting.plain()).accept()[0])
        before = stack.enter_context(waited.accept()[0])

        wait_briefly(dialed)
        wait_briefly(accepted)
        wait_briefly(off)
        off.setsockopt(SOCKET, socket.SO_KEEPALIVE, 0)
        with twin.dup() as other:
            wait_briefly(other)
        wait_briefly(many, count=6)
        data.setsockopt(TCP, socket.TCP_USER_TIMEOUT, 1500)

        short = [dialed, accepted, twin, inherited, in_c, before, data]
        ends = [pool.submit(reset, conn) for conn in short]
        ends.append(pool.submit(reset_in_asyncio, in_asyncio))
        last = pool.submit(reset, many)
        dying.kill()
        killed = time.monotonic()
        data.sendall(b"never acknowledged")
        for end in ends:
            assert end.result() - killed < LATE
        assert forking.stdout.readline() == "reset\n"
        assert time.monotonic() - killed < LATE
        assert 4 < last.result() - killed < LATE
        assert is_open(off)  # idle, and nobody asks
        assert is_open(usual)


def test_a_closed_window_is_no_death(net: Testnet, server: TailnetHandle, dying: Peer) -> None:
    """A peer that reads nothing is kept by default while it answers, and given up once dead."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(server.listen(":80"))
        sending = stack.enter_context(
            start(net, SENDING, LIVING=str(server.ip), DYING=dying.ip, **BRIEF)
        )
        stack.callback(sending.kill)
        assert sending.stdout
        assert sending.stdin
        kept, _ = (stack.enter_context(listener.accept()[0]) for _ in range(2))
        dying.hold("")
        dying.hold("")
        assert sending.stdout.readline() == "dialed\n"

        def tell() -> None:
            assert sending.stdin
            sending.stdin.write("go on\n")
            sending.stdin.flush()

        assert sending.stdout.readline() == "limited ConnectionResetError\n"
        tell()
        assert sending.stdout.readline() == "kept open True\n"
        dying.kill()
        killed = time.monotonic()
        tell()
        ends = {sending.stdout.readline() for _ in range(2)}
        assert ends == {"closed ConnectionResetError\n", "written ConnectionResetError\n"}
        assert time.monotonic() - killed < LATE
        kept.settimeout(WAIT)
        left = MUCH
        while left and (part := kept.recv(1 << 20)):
            left -= len(part)
        assert left == 0
        assert sending.stdout.readline() == "kept sent\n"


def test_options_are_what_is_in_force(server: TailnetHandle, client: TailnetHandle) -> None:
    """Defaults, what was set, and what was inherited read back; what Linux refuses is EINVAL."""
    with server.listen(":0") as listener, client.dial(listener.getsockname()) as near:
        with listener.accept()[0] as far:
            for sock in (listener, near, far):
                assert values(sock) == USUAL
        listener.setsockopt(SOCKET, socket.SO_KEEPALIVE, 0)
        listener.setsockopt(TCP, socket.TCP_KEEPIDLE, 300)
        listener.setsockopt(TCP, socket.TCP_NODELAY, 1)
        with client.dial(listener.getsockname()), listener.accept()[0] as far, far.dup() as twin:
            for sock in (far, twin):
                assert values(sock) == [
                    0,
                    300,
                    15,
                    4,
                    360_000,
                ]  # keepalive's last probe is not cut off
                assert sock.getsockopt(TCP, socket.TCP_NODELAY) == 1
            twin.setsockopt(TCP, socket.TCP_USER_TIMEOUT, 1500)
            assert far.getsockopt(TCP, socket.TCP_USER_TIMEOUT) == 1500
            far.setsockopt(TCP, socket.TCP_USER_TIMEOUT, 0)
            assert far.getsockopt(TCP, socket.TCP_USER_TIMEOUT, 4) == struct.pack("i", 360_000)
            assert listener.getsockopt(TCP, socket.TCP_USER_TIMEOUT) == 360_000
        for option, value in ((1, 0), (1, 32768), (2, 0), (3, 128), (4, -1)):
            with pytest.raises(OSError) as caught:
                near.setsockopt(*OPTIONS[option], value)
            assert caught.value.errno == errno.EINVAL
        assert values(near) == USUAL


def test_options_over_the_host_network_are_the_kernels(net: Testnet) -> None:
    """A connection by `allow_host_network` has the kernel's options, and sets them."""
    new = [0, 7, 8, 9, 1500]
    with (
        net.tailnet("hosted", allow_host_network=True) as tn,
        socket.create_server(("127.0.0.1", 0)) as server,
        tn.dial(server.getsockname()) as conn,
        server.accept()[0],
        descriptor_with(conn.getsockname()) as kernels,
    ):
        assert values(conn) == values(kernels) == [1, 15, 15, 9, 0]
        for option, value in zip(OPTIONS, new, strict=True):
            conn.setsockopt(*option, value)
        eventually("they reach the kernel", lambda: values(kernels) == new)
        assert values(conn) == new


def values(sock: socket.socket) -> list[int]:
    """Return the values of all options."""
    return [sock.getsockopt(*option) for option in OPTIONS]


def descriptor_with(address: tuple[str, int]) -> socket.socket:
    """Return a copy of this process's socket that has an address; the library's, here."""
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if fd.is_socket():
                copy = socket.socket(fileno=os.dup(int(fd.name)))
                if copy.family == socket.AF_INET and copy.getsockname() == address:
                    return copy
                copy.close()
    pytest.fail(f"no socket has the address {address}")
