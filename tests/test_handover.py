"""Listeners and connections are handed over to processes that were not forked from the node's."""

from __future__ import annotations

import contextlib
import copy
import http.client
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import reduction, resource_sharer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tailnet import TailnetHandle, TailnetListener, TailnetSocket
from tailnet.testing import Testnet
from tests.support.held import nothing_left
from tests.support.waiting import WAIT, eventually, sits_in


@pytest.fixture(scope="module", autouse=True)
def helpers() -> Iterator[None]:
    """Start the processes and the thread that multiprocessing then keeps."""
    for method in ("spawn", "forkserver"):
        context: Any = multiprocessing.get_context(method)
        child = context.Process(target=int)
        child.start()
        child.join(WAIT)
    for end in multiprocessing.Pipe():
        with end, socket.socket() as passed:
            reduction.ForkingPickler.loads(reduction.ForkingPickler.dumps(passed)).close()
    yield
    resource_sharer.stop()


def described(conn: TailnetSocket) -> list[Any]:
    """Return what a process sees of a connection, and what came on it."""
    with conn:
        said = conn.recv(5)
        conn.sendall(said.upper())
        return [
            type(conn).__name__,
            conn.getsockname(),
            conn.getpeername(),
            conn.gettimeout(),
            said,
        ]


def accepting(listener: TailnetListener, pipe: Connection) -> None:
    """Accept, in another process, until that ends; tell of each connection."""
    pipe.send(
        [type(listener).__name__, listener.getsockname(), listener.family, listener.gettimeout()]
    )
    try:
        while True:
            conn, peer = listener.accept()
            pipe.send([peer, *described(conn)])
    except ConnectionAbortedError as e:
        pipe.send(str(e))
    listener.close()


def speaking(pipe: Connection) -> None:
    """Receive connections through a pipe, in another process, and tell of them."""
    while (conn := pipe.recv()) is not None:
        pipe.send(described(conn))


@contextlib.contextmanager
def process(method: str, target: Any, *args: Any) -> Iterator[tuple[Connection, Any]]:
    """Run a function in another process, with one end of a pipe as its last argument."""
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    with ours:
        child = context.Process(target=target, args=(*args, theirs), daemon=True)
        child.start()
        theirs.close()
        try:
            yield ours, child
        finally:
            child.join(WAIT)
            code = child.exitcode
            child.kill()
            child.join()
            child.close()
        assert code == 0


def received(pipe: Connection) -> Any:
    """Return the next message."""
    assert pipe.poll(WAIT)
    return pipe.recv()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_listener_is_an_argument(net: Testnet, client: TailnetHandle, method: str) -> None:
    """In a process without a node it accepts as here, and ends with the node that it is of.

    Its close there, as of one that goes on here, ends nothing here.
    """
    with nothing_left():
        tn = net.tailnet(f"handed-{method}").up()
        listener = tn.listen(":80")
        own = listener.getsockname()
        eventually("they met", lambda: tn.fqdn in {peer.name for peer in client.status().peers})
        with process(method, accepting, listener) as (pipe, child):
            assert received(pipe) == ["TailnetListener", own, socket.AF_UNIX, None]
            for ip in tn.ips:
                with client.dial((str(ip), 80), timeout=WAIT) as conn:
                    conn.settimeout(WAIT)
                    conn.sendall(b"hello")
                    near, far = conn.getsockname(), conn.getpeername()
                    assert received(pipe) == [near, "TailnetSocket", far, near, None, b"hello"]
                    assert conn.recv(5) == b"HELLO"
                    assert conn.recv(1) == b""
            eventually("it sits in accept", lambda: sits_in("accept", child.pid))
            tn.close()
            assert received(pipe) == "[Errno 103] this listener or its node was closed"
        listener.close()


def test_the_port_is_not_given_back_by_the_other_process(
    server: TailnetHandle, client: TailnetHandle
) -> None:
    """A process that closes its listener, and ends, leaves this one listening."""
    with nothing_left(), server.listen(":0") as listener:
        with process("spawn", closing, listener):
            pass
        port = listener.getsockname()[1]
        with client.dial((str(server.ip), port), timeout=WAIT) as conn:
            listener.settimeout(WAIT)
            far, peer = listener.accept()
            with far:
                assert peer == conn.getsockname()


def closing(listener: TailnetListener, pipe: Connection) -> None:
    """Close what was handed over."""
    listener.close()
    pipe.close()


def test_a_stranger_is_turned_away_there_too(server: TailnetHandle, client: TailnetHandle) -> None:
    """Somebody of this machine who connects to the path is no peer, in any process."""
    stranger = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX);"
        "s.bind(b'\\0forged/7/100.64.0.99:1'); s.connect(sys.argv[1]); print(s.recv(1))"
    )
    with (
        nothing_left(),
        server.listen(":0") as listener,
        process("spawn", accepting_one, listener) as (pipe, child),
    ):
        eventually("it sits in accept", lambda: sits_in("accept", child.pid))
        done = subprocess.run(
            [sys.executable, "-c", stranger, listener._listening.path],
            capture_output=True,
            timeout=WAIT,
            check=False,
        )
        assert done.stdout == b"b''\n"
        with client.dial((str(server.ip), listener.getsockname()[1]), timeout=WAIT) as conn:
            assert received(pipe) == conn.getsockname()


def accepting_one(listener: TailnetListener, pipe: Connection) -> None:
    """Tell who comes first."""
    conn, peer = listener.accept()
    with conn:
        pipe.send(peer)
        listener.close()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_connections_go_through_a_pipe(
    server: TailnetHandle, client: TailnetHandle, method: str
) -> None:
    """Accepted and dialed ones arrive with addresses and timeout, also when closed here."""
    with nothing_left(), server.listen(":0") as listener, process(method, speaking) as (pipe, _):
        near = client.dial((str(server.ip), listener.getsockname()[1]), timeout=WAIT)
        far, peer = listener.accept()
        far.settimeout(7.0)
        with near:
            near.settimeout(WAIT)
            near.sendall(b"hello")
            with far:
                pipe.send(far)
                own = far.getsockname()
            assert received(pipe) == ["TailnetSocket", own, peer, 7.0, b"hello"]
            assert near.recv(6) == b"HELLO"
        pipe.send(None)


def test_it_comes_back_as_it_went(server: TailnetHandle, net: Testnet) -> None:
    """In the process that has the node, an end is known again, and the views are counted."""
    with nothing_left(), net.tailnet("returned") as client:
        eventually("they met", lambda: server.fqdn in {p.name for p in client.status().peers})
        ours, theirs = multiprocessing.Pipe()
        with ours, theirs, server.listen(":0") as listener:
            ours.send(listener)
            view = received(theirs)
            with client.dial((str(server.ip), listener.getsockname()[1]), timeout=WAIT):
                listener.close()
                view.settimeout(WAIT)
                with view, view.accept()[0] as accepted:
                    ours.send(accepted)
                far = received(theirs)
                far.settimeout(WAIT)
                client.close(0)
                with far, pytest.raises(ConnectionResetError):
                    far.recv(1)


def test_what_is_closed_is_not_handed_over(server: TailnetHandle) -> None:
    """A closed listener is EBADF, as for any other call."""
    listener = server.listen(":0")
    listener.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        reduction.ForkingPickler.dumps(listener)


@pytest.mark.parametrize("dump", [pickle.dumps, copy.copy], ids=["pickle", "copy"])
def test_any_other_pickle_says_what_to_do(server: TailnetHandle, dump: Any) -> None:
    """A descriptor cannot be written into bytes; the error says what hands it over."""
    with server.listen(":0") as listener, pytest.raises(TypeError, match="multiprocessing hands"):
        dump(listener)


def handed_over(whole: Any) -> Any:
    """Return what another process gets, made in this one."""
    return reduction.ForkingPickler.loads(reduction.ForkingPickler.dumps(whole))


COPIES = [handed_over, lambda whole: whole.dup(), lambda whole: whole.plain()]


@pytest.mark.parametrize("copied", COPIES, ids=["handed over", "dup", "plain"])
def test_a_copy_does_not_make_others_block(
    server: TailnetHandle, client: TailnetHandle, copied: Any
) -> None:
    """A server's worker has made the descriptor non-blocking; a copy for the next leaves it so."""
    with nothing_left(), server.listen(":0") as listener:
        listener.settimeout(WAIT)
        with client.dial((str(server.ip), listener.getsockname()[1]), timeout=WAIT) as conn:
            far, _ = listener.accept()
            listener.settimeout(None)
            with far:
                for each in (listener, conn, far):
                    os.set_blocking(each.fileno(), False)  # as the worker's, which shares it
                    with copied(each) as copy_of_it:
                        assert copy_of_it.gettimeout() is None
                    assert not os.get_blocking(each.fileno())


WORKERS = """
import os
import uvicorn
from uvicorn.supervisors import Multiprocess
from tailnet import *

async def app(scope, receive, send):
    body = f"{os.getpid()} {scope['client'][0]} {scope['server']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})

if __name__ == "__main__":
    config = uvicorn.Config("workers:app", workers=2, loop="asyncio", lifespan="off")
    with graceful(), Tailnet(TailnetConfig.from_env(hostname="workers")) as tn:
        Multiprocess(config, sockets=[tn.listen(":80")]).run()
"""


def test_workers_of_uvicorn(net: Testnet, client: TailnetHandle, tmp_path: Path) -> None:
    """Its supervisor's spawned workers serve on a listener, and see the peer."""
    (tmp_path / "workers.py").write_text(WORKERS)
    with (
        subprocess.Popen(
            [sys.executable, "workers.py"],
            cwd=tmp_path,
            env={**os.environ, **net.environ(), "TS_EPHEMERAL": "true"},
            stderr=subprocess.PIPE,
            text=True,
        ) as program,
        contextlib.ExitStack() as undo,
    ):
        undo.callback(program.kill)  # where the test fails
        eventually("it is there", lambda: "workers" in {p.hostname for p in client.status().peers})
        pids: set[str] = set()

        def ask() -> bool:
            http_client = http.client.HTTPConnection("workers", timeout=WAIT)
            http_client._create_connection = client.create_connection  # type: ignore[attr-defined]
            with contextlib.closing(http_client):
                http_client.request("GET", "/")
                pid, ip, _ = http_client.getresponse().read().decode().split(" ", 2)
                assert ip == str(client.ip)
                pids.add(pid)
                return len(pids) == 2

        eventually("both workers answer", ask)
        program.terminate()
        _, err = program.communicate(timeout=WAIT)
    assert program.returncode == 0, err
    assert "Traceback" not in err
