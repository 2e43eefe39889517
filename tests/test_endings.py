"""How listening ends: who is woken, who is told, what is given back."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import select
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tailnet import (
    TailnetClosed,
    TailnetError,
    TailnetHandle,
    TailnetListener,
    TailnetPeerNotFound,
    TailnetRefused,
    TailnetSocket,
)
from tailnet.testing import Testnet
from tests.support.faces import Async, Face
from tests.support.held import nothing_left
from tests.support.listeners import is_taken, wait_in_accept
from tests.support.nodes import acquaint
from tests.support.threads import Pool
from tests.support.waiting import WAIT, eventually, waits


def test_several_threads_are_woken_from_timeouts(net: Testnet) -> None:
    """Every thread that sits in accept with a timeout is woken when the node closes."""
    with nothing_left():
        tn = net.tailnet("crowd-timeout").up()
        with tn.listen(":80") as listener, listener.dup() as twin, Pool(6) as pool:
            listener.settimeout(10.0)
            twin.settimeout(10.0)
            waiting = [pool.submit(wait_in_accept, each) for each in (listener, twin) * 3]
            eventually("all wait", lambda: all(map(waits, pool.threads)))
            tn.close()
            for each in waiting:
                error = each.result(WAIT)
                assert isinstance(error, ConnectionAbortedError)


def test_an_asyncio_server_left_open_is_quiet(net: Testnet) -> None:
    """A server that is left open when its node closes neither spins nor accepts."""

    async def leave_open() -> int:
        loop = asyncio.get_running_loop()
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        loop.set_exception_handler(count)
        async with net.async_tailnet("quiet") as tn:
            listener = await tn.listen(":80")
            serving = await asyncio.start_server(lambda *_: None, sock=listener)
        for _ in range(1000):  # turns of the loop
            await asyncio.to_thread(bool)
        serving.close()
        await serving.wait_closed()
        return calls

    with nothing_left():
        assert asyncio.run(leave_open()) <= 2


def test_a_dropped_view_does_not_keep_the_port(server: TailnetHandle) -> None:
    """A listener that was dropped unclosed counts no more: the close of the last view ends it."""
    with nothing_left():
        held = [server.listen(":80")]
        with held[0].as_inet():
            with pytest.warns(ResourceWarning, match="unclosed <TailnetListener"):
                held.clear()
            assert is_taken(server, 80)
        assert not is_taken(server, 80)


def test_plain_on_a_closed_listener_pins_nothing(server: TailnetHandle) -> None:
    """plain() and detach() of a closed listener leave nothing with the node."""
    listener = server.listen(":80")
    listener.close()
    with pytest.raises(OSError):
        listener.plain()
    listener.detach()
    assert not server._node.pinned


def test_a_plain_whose_listener_was_dropped_does_not_warn(net: Testnet) -> None:
    """Closing the node is enough after tn.listen().plain(): nothing warns."""
    with nothing_left(), net.tailnet("plain-quiet") as tn, tn.listen(":80").plain():
        pass
    gc.collect()


def test_close_0_resets(net: Testnet, server: TailnetHandle) -> None:
    """Peers see at once that a node was closed without time to drain."""
    with nothing_left(), net.tailnet("hasty") as tn, server.listen(":80") as listener:
        acquaint(tn, server)
        near = tn.dial(listener.getsockname())
        far, _ = listener.accept()
        with near, far:
            far.settimeout(5)
            tn.close(0)
            with pytest.raises(ConnectionResetError):
                far.recv(1)


def test_close_0_waits_for_nothing(
    net: Testnet, server: TailnetHandle, face: Face, caplog: pytest.LogCaptureFixture
) -> None:
    """close(timeout=0) of either object returns at once, and says that connections were cut off."""
    with server.listen(":80") as listener:
        for what in ("the Tailnet", "the handle"):
            tailnet = face.tailnet(net.config("hasty"))
            node: Any = face.up(tailnet)  # type: ignore[arg-type]
            with contextlib.closing(node.dial(listener.getsockname())), listener.accept()[0]:
                closes: Any = tailnet if what == "the Tailnet" else node.handle
                began = time.monotonic()
                closing = closes.close(timeout=0)
                if isinstance(face, Async):
                    face.run(closing)
                assert time.monotonic() - began < 1, what  # without it, 3 s
            assert "[hasty] connections were cut off after 0.0 s of closing" in caplog.text
            caplog.clear()


@pytest.mark.parametrize("says", [b"", b"hello"])
def test_who_was_never_accepted_is_reset(net: Testnet, server: TailnetHandle, says: bytes) -> None:
    """Somebody who waits for accept() when the listener closes does not see an end in order."""
    with net.tailnet("waiting") as client:
        acquaint(client, server)
        with server.listen(":0") as listener:
            conn = client.dial((str(server.ip), listener.getsockname()[1]), timeout=20)
            conn.sendall(says)
            assert select.select([listener], [], [], 20)[0]
        conn.settimeout(20)
        with conn, pytest.raises(ConnectionResetError):
            conn.recv(1)


def test_who_reads_late_reads_all(net: Testnet) -> None:
    """A peer reads all, and a clean end, also when the node has long been gone."""
    words = bytes(256 << 10)  # some of it waits in the peer's netstack, and so does our FIN
    with nothing_left(), net.tailnet("late") as late:
        tn = net.tailnet("gone").up()
        with contextlib.ExitStack() as stack:
            acquaint(tn, late)
            listener = stack.enter_context(tn.listen(":80"))
            peers = [stack.enter_context(late.dial(f"{tn.ip}:80")) for _ in range(16)]
            for _ in peers:
                stack.enter_context(listener.accept()[0]).sendall(words)
            tn.close()
            for peer in peers:
                with peer.makefile("rb") as file:
                    assert file.read() == words


def test_what_a_close_cuts_off_does_not_look_complete(net: Testnet, server: TailnetHandle) -> None:
    """Who reads what a closed node had still to receive finds a reset, and no end."""
    with nothing_left(), net.tailnet("slow") as tn, server.listen(":80") as listener:
        acquaint(tn, server)
        near = tn.dial(listener.getsockname())
        far, _ = listener.accept()
        with near, far, Pool(1) as pool:
            sending = pool.submit(far.sendall, bytes(32 << 20))
            eventually("there is more than has room", lambda: not is_writable(far))
            tn.close(1)
            with pytest.raises(ConnectionResetError):
                collections.deque(iter(lambda: near.recv(1 << 20), b""), maxlen=0)
            with pytest.raises(ConnectionError):
                sending.result(WAIT)


def is_writable(conn: TailnetSocket) -> bool:
    """Report whether something could be sent now."""
    return bool(select.select([], [conn], [], 0)[1])


def test_a_service_whose_caller_has_left(net: Testnet) -> None:
    """It waits for nothing when it closes: the caller's node has said that it is gone."""
    with nothing_left():
        service, caller = net.tailnet("service").up(), net.tailnet("leaver").up()
        with service.listen(":80") as listener, caller.dial("service:80") as near:
            far, _ = listener.accept()
            far.sendall(b"take this")
            caller.close()
            with far:
                assert far.recv(1) == b""
            assert near.recv(100) == b"take this"
        began = time.monotonic()
        service.close()
        assert time.monotonic() - began < 1


def test_a_listener_that_begins_while_its_node_closes(net: Testnet) -> None:
    """It fails, or its accept ends: nobody waits for ever."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(10):
            tn = await net.async_tailnet("brief").up()
            found, _ = await asyncio.gather(tn.listen(":80"), tn.close(), return_exceptions=True)
            if isinstance(found, TailnetListener):
                with found, pytest.raises(ConnectionAbortedError):
                    await asyncio.wait_for(loop.sock_accept(found), WAIT)
            else:
                assert isinstance(found, TailnetClosed)

    with nothing_left():
        asyncio.run(main())


def test_calls_that_a_close_overtakes(net: Testnet) -> None:
    """Each says which node was closed, however far it had come."""
    for _ in range(10):
        tn = net.tailnet("brief").up()
        calls = [lambda: tn.dial(f"{tn.ip}:1"), lambda: tn.whois("100.65.0.1"), tn.status]  # noqa: B023

        def ask(call: Callable[[], object]) -> TailnetError:
            while True:
                try:
                    call()
                except (TailnetRefused, TailnetPeerNotFound):
                    pass
                except TailnetError as e:
                    return e

        with Pool(6) as pool:
            asking = [pool.submit(ask, call) for call in calls * 2]
            tn.close()
            for ended in asking:
                assert (
                    str(ended.result())
                    == "node 'brief' was closed; make a new Tailnet to join again"
                )


def test_a_close_overtakes_who_joins() -> None:
    """Each of several threads in up() is told which node was closed."""
    with nothing_left(), Testnet() as own, Pool(4) as pool:
        own.control.fault("hang")
        tailnet = own.tailnet("brief")
        joining = [pool.submit(tailnet.up) for _ in range(4)]
        tailnet.close()
        for ended in joining:
            with pytest.raises(TailnetClosed, match="node 'brief' was closed; make a new"):
                ended.result()


def test_uvloop_gives_the_port_back(server: TailnetHandle) -> None:
    """Uvloop detaches the listener that it serves; closing it afterwards still ends it."""
    import uvloop

    async def serve(listener: TailnetListener) -> None:
        loop = asyncio.get_running_loop()
        serving = await loop.create_server(asyncio.Protocol, sock=listener)
        serving.close()
        await serving.wait_closed()

    listener = server.listen(":80")
    loop = uvloop.new_event_loop()
    loop.run_until_complete(serve(listener))
    loop.close()
    listener.close()
    assert not is_taken(server, 80)


def test_a_wrapped_listener_gives_the_port_back(server: TailnetHandle) -> None:
    """So does the one that an SSLContext has wrapped, and taken the descriptor of."""
    with server.listen(":80") as listener:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_socket(listener, server_side=True).close()
        assert is_taken(server, 80)
    assert not is_taken(server, 80)


def test_nobody_else_can_say_that_it_is_over(server: TailnetHandle) -> None:
    """A process of the same user that claims so is turned away like any other."""
    code = (
        "import os, socket, sys\n"
        "with socket.socket(socket.AF_UNIX) as s:\n"
        "    s.bind(b'\\0%d/0/closed' % os.getpid())\n"
        "    s.connect(sys.argv[1])"
    )
    with nothing_left(), server.listen(":80") as listener:
        path = listener._listening.path
        subprocess.run([sys.executable, "-c", code, path], check=True, timeout=30)
        listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listener.accept()
