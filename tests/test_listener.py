"""A listener is a listening socket: views of it, who is let in, who is woken, and children."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import pickle
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tailnet import TailnetHandle, TailnetListener, TailnetRefused
from tailnet.testing import Testnet
from tests.support.held import nothing_left
from tests.support.listeners import is_taken, wait_in_accept
from tests.support.nodes import acquaint
from tests.support.threads import Pool, started
from tests.support.waiting import WAIT, eventually, waits


def serves(listener: socket.socket, client: TailnetHandle, address: tuple[str, int]) -> bool:
    """Report whether what is dialed at an address arrives at a listener and is carried."""
    with client.dial(address, timeout=WAIT) as near:
        near.settimeout(WAIT)
        listener.settimeout(WAIT)
        far, _ = listener.accept()
        with far:
            far.sendall(b"hello")
        return near.recv(5) == b"hello" and near.recv(1) == b""


def directory_of(listener: TailnetListener) -> Path:
    """Return the directory of a listener's unix socket."""
    return Path(listener._listening.path).parent


# --- views ---


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_port_stays_until_the_last_view_closes(
    server: TailnetHandle, client: TailnetHandle, order: tuple[int, ...]
) -> None:
    """In whatever order listener and views are closed, the rest serve and the last ends it."""
    with nothing_left():
        listener = server.listen(":80")
        address, directory = listener.getsockname(), directory_of(listener)
        views = [listener, listener.dup(), listener.as_inet()]
        for closed, number in enumerate(order, start=1):
            assert is_taken(server, 80)
            assert all(serves(views[n], client, address) for n in order[closed - 1 :])
            views[number].close()
            views[number].close()  # again
            assert views[number].fileno() == -1
        assert not is_taken(server, 80)
        assert not directory.exists()


def test_a_view_is_of_the_same_kind(server: TailnetHandle) -> None:
    """A view has class, address and timeout; as_inet changes the family, and a dup keeps it."""
    with (
        nothing_left(),
        server.listen(":80") as listener,
        listener.dup() as twin,
        listener.as_inet() as view,
        view.dup() as second,
    ):
        for each, family in (
            (listener, socket.AF_UNIX),
            (twin, socket.AF_UNIX),
            (view, socket.AF_INET),
            (second, socket.AF_INET),
        ):
            assert type(each) is TailnetListener
            assert each.getsockname() == (str(server.ip), 80)
            assert each.family == family
            assert each.gettimeout() is None
            assert each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            assert not os.get_inheritable(each.fileno())
            assert str(each.getsockname()) in repr(each)
        listener.settimeout(5.0)
        with listener.dup() as twin2, listener.as_inet() as view2, listener.plain() as plain:
            assert twin2.gettimeout() == view2.gettimeout() == plain.gettimeout() == 5.0


def test_what_a_closed_listener_says(server: TailnetHandle) -> None:
    """A closed listener raises OSError from accept and getsockname, and says so in its repr."""
    listener = server.listen(":80")
    listener.close()
    for call in (listener.accept, listener.getsockname, listener.dup, listener.plain):
        with pytest.raises(OSError):
            call()
    assert "closed" in repr(listener)


def test_it_cannot_be_pickled(server: TailnetHandle) -> None:
    """Pickling is refused, as of every socket."""
    with (
        server.listen(":80") as listener,
        pytest.raises(TypeError, match="cannot pickle 'TailnetListener' object"),
    ):
        pickle.dumps(listener)


def test_plain_is_exactly_a_socket(server: TailnetHandle, client: TailnetHandle) -> None:
    """plain() is a socket.socket whose close keeps the port, which the listener's gives back."""
    with nothing_left():
        listener = server.listen(":80")
        address = listener.getsockname()
        with listener.plain() as plain:
            assert type(plain) is socket.socket
            assert plain.family == socket.AF_UNIX
            assert plain.getsockname() == listener._listening.path
            assert serves(plain, client, address)
        assert serves(listener, client, address)
        with listener.plain() as plain:
            listener.close()
            assert not is_taken(server, 80)


def test_a_descriptor_that_a_server_closed(server: TailnetHandle) -> None:
    """It is no error to close the listener then, and whoever has the number now keeps it."""
    with nothing_left():
        with server.listen(":80") as listener:
            os.close(listener.fileno())
        assert not is_taken(server, 80)
        with server.listen(":80") as listener:
            number = listener.fileno()
            os.close(number)
            with open(os.devnull, "rb", buffering=0) as other:  # noqa: PTH123 - takes the lowest
                assert other.fileno() <= number
                if other.fileno() != number:
                    os.dup2(other.fileno(), number)
                listener.close()
                os.fstat(number)
                if other.fileno() != number:
                    os.close(number)
        assert not is_taken(server, 80)


def test_plain_outlives_its_listener(net: Testnet, client: TailnetHandle) -> None:
    """After the TailnetListener was dropped, what plain() returned serves until the node closes."""
    with nothing_left():
        with net.tailnet("plain") as tn:
            acquaint(tn, client)
            with tn.listen(":80").plain() as plain:
                gc.collect()
                assert serves(plain, client, (str(tn.ip), 80))
            assert is_taken(tn, 80)
            tn.close()
        assert not tn._node.pinned


def test_closing_the_listener_wakes_who_waits_in_plain(server: TailnetHandle) -> None:
    """Whoever sits in accept of a plain socket gets a connection that ends at once."""
    with nothing_left(), Pool(1) as pool:
        listener = server.listen(":80")
        with listener.plain() as plain:
            waiting = pool.submit(plain.accept)
            eventually("it waits", waiting.running)
            listener.close()
            conn, name = waiting.result(WAIT)
            with conn:
                assert name.endswith(b"/0/closed")
                assert conn.recv(1) == b""


def test_a_detached_descriptor_is_fed_until_the_node_closes(
    net: Testnet, client: TailnetHandle
) -> None:
    """Detach, drop the listener: the descriptor still accepts, and its port is the node's."""
    with nothing_left():
        with net.tailnet("detached") as tn:
            acquaint(tn, client)
            listener = tn.listen(":80")
            fd = listener.detach()
            assert listener.fileno() == -1
            del listener
            gc.collect()
            with socket.socket(fileno=fd) as plain:
                assert serves(plain, client, (str(tn.ip), 80))
                assert is_taken(tn, 80)
                plain.setblocking(True)
                tn.close()
                conn, _ = plain.accept()
                with conn:
                    assert conn.recv(1) == b""
        assert not tn._node.pinned


def test_a_dropped_listener_warns(server: TailnetHandle) -> None:
    """Dropped without a close, a listener warns as socket.socket does, and gives the port back."""
    with nothing_left():
        held = [server.listen(":80")]
        directory = directory_of(held[0])
        with pytest.warns(ResourceWarning, match=r"unclosed <TailnetListener fd=\d+, own="):
            held.clear()
        assert not is_taken(server, 80)
        assert not directory.exists()


# --- addresses ---


def test_one_port_on_two_addresses(server: TailnetHandle, client: TailnetHandle) -> None:
    """A port is listened on once for each own address, and each gets its own connections."""
    with (
        nothing_left(),
        server.listen((str(server.ips[0]), 80)) as first,
        server.listen((str(server.ips[1]), 80)) as second,
    ):
        assert {first.getsockname()[0], second.getsockname()[0]} == set(map(str, server.ips))
        for listener in (second, first):
            assert serves(listener, client, listener.getsockname())
            first.setblocking(False)
            second.setblocking(False)
            for each in (first, second):
                with pytest.raises(BlockingIOError):
                    each.accept()


def test_ipv6(server: TailnetHandle, client: TailnetHandle) -> None:
    """Over IPv6 both ends have IPv6 addresses of two parts, on a listener of its own or of all."""
    ip = str(next(ip for ip in server.ips if ip.version == 6))
    own = {str(ip) for ip in client.ips if ip.version == 6}
    for host in (f"[{ip}]", ""):
        with nothing_left(), server.listen(f"{host}:80") as listener, client.dial((ip, 80)) as near:
            far, peer = listener.accept()
            with far:
                assert peer == far.getpeername() == near.getsockname()
                assert far.getsockname() == near.getpeername() == (ip, 80)
                assert peer[0] in own
    with server.listen("0.0.0.0:80"), pytest.raises(TailnetRefused):  # these are the IPv4 ones
        client.dial((ip, 80))


# --- who is let in ---


# Connects as nobody, as a peer of the tailnet, and says whether it was sent away.
INTRUDER = """
import os, socket, sys
for name in (None, b"\\0%d/7/100.64.0.9:4242" % os.getpid(), b"\\0nonsense%d" % os.getpid()):
    with socket.socket(socket.AF_UNIX) as sock:
        if name:
            sock.bind(name)
        sock.settimeout(30)
        sock.connect(sys.argv[1])
        assert sock.recv(1) == b""
print("sent away", flush=True)
"""


@pytest.mark.parametrize("timeout", [None, WAIT])
def test_other_processes_are_turned_away(
    server: TailnetHandle, client: TailnetHandle, timeout: float | None
) -> None:
    """Another process of this user that connects to the path is sent away, and accept goes on."""
    with nothing_left(), server.listen(":80") as listener, Pool(1) as pool:
        listener.settimeout(timeout)
        accepting = pool.submit(listener.accept)
        intruder = subprocess.run(
            [sys.executable, "-c", INTRUDER, listener._listening.path],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert intruder.stdout == "sent away\n", intruder.stderr
        assert not accepting.done()
        with client.dial(listener.getsockname()) as near:
            far, peer = accepting.result(WAIT)
            with far:
                assert peer == near.getsockname()


def test_a_connection_without_a_name_is_turned_away(
    server: TailnetHandle, client: TailnetHandle
) -> None:
    """A connection that this very process makes to the path, past the library, is sent away."""
    with nothing_left(), server.listen(":80") as listener:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(WAIT)
            sock.connect(listener._listening.path)
            assert serves(listener, client, listener.getsockname())
            assert sock.recv(1) == b""
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_the_directory_is_private(server: TailnetHandle) -> None:
    """The unix socket lies in a directory of mode 0700, which is removed by the close."""
    with nothing_left():
        with server.listen(":80") as listener:
            path = Path(listener._listening.path)
            assert path.is_socket()
            assert path.parent.stat().st_mode & 0o7777 == 0o700
            assert path.parent.stat().st_uid == os.geteuid()
            assert [path] == list(path.parent.iterdir())
        assert not path.parent.exists()


def test_a_long_tmpdir(
    server: TailnetHandle,
    client: TailnetHandle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sockets lie in TMPDIR, or in /tmp where that is too long for the path of a socket."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    for parent, expected in ((Path("/var/tmp"), Path("/var/tmp")), (long, Path("/tmp"))):
        monkeypatch.setattr(tempfile, "tempdir", str(parent))
        with nothing_left(), server.listen(":80") as listener:
            assert directory_of(listener).parent == expected
            assert serves(listener, client, listener.getsockname())
    assert not list(long.iterdir())


# --- waiting ---


def test_accept_waits_as_a_socket_does(server: TailnetHandle, client: TailnetHandle) -> None:
    """An accept raises BlockingIOError or TimeoutError, and what it returns blocks in any case."""
    with nothing_left(), server.listen(":80") as listener:
        for seconds, error in ((0.0, BlockingIOError), (0.01, TimeoutError)):
            listener.settimeout(seconds)
            assert listener.gettimeout() == seconds
            with pytest.raises(error):
                listener.accept()
            with client.dial(listener.getsockname()) as near:
                assert select.select([listener], [], [], WAIT) == ([listener], [], [])
                far, _ = listener.accept()
                with far:
                    assert (far.gettimeout(), far.getblocking()) == (None, True)
                    assert os.get_blocking(far.fileno())
                    assert not os.get_inheritable(far.fileno())
                    assert far.getpeername() == near.getsockname()


def test_a_caller_who_hung_up(server: TailnetHandle, client: TailnetHandle) -> None:
    """A caller who left before accept is accepted all the same, with what was said and its name."""
    with nothing_left(), server.listen(":80") as listener:
        with client.dial(listener.getsockname()) as near:
            name = near.getsockname()
            near.sendall(b"bye")
        far, peer = listener.accept()
        with far:
            assert peer == far.getpeername() == name
            assert far.recv(3, socket.MSG_WAITALL) == b"bye"
            assert far.recv(1) == b""


# --- closing wakes ---


def wait_in_asyncio(listener: TailnetListener) -> BaseException | None:
    """Sit in accept as an event loop does; return what ended it."""

    async def accept() -> None:
        await asyncio.get_running_loop().sock_accept(listener)

    try:
        asyncio.run(accept())
    except OSError as e:
        return e
    return None


Waiting = Callable[[TailnetListener], "BaseException | None"]
MODES = pytest.mark.parametrize(
    ("timeout", "wait"),
    [(None, wait_in_accept), (600.0, wait_in_accept), (0.0, wait_in_asyncio)],
    ids=["blocking", "timeout", "asyncio"],
)


def woken_by(
    close: Callable[[], None], listener: TailnetListener, wait: Waiting
) -> BaseException | None:
    """Return what somebody gets who sits in accept when something is closed."""
    ended: list[BaseException | None] = []
    thread = started(lambda: ended.append(wait(listener)))
    eventually("it waits in accept", lambda: waits(thread))
    close()
    thread.join(WAIT)
    assert not thread.is_alive()
    return ended[0]


@MODES
def test_closing_the_node_wakes_accept(net: Testnet, timeout: float | None, wait: Waiting) -> None:
    """Close a node: whoever sits in accept gets an OSError that says why, and so does the next."""
    with nothing_left():
        tn = net.tailnet("waking").up()
        with tn.listen(":80") as listener:
            listener.settimeout(timeout)
            error = woken_by(tn.close, listener, wait)
            for _ in range(2):
                assert isinstance(error, OSError)
                assert isinstance(error, ConnectionAbortedError)
                assert "this listener or its node was closed" in str(error)
                error = wait_in_accept(listener)


@pytest.mark.parametrize("timeout", [None, 600.0])
def test_closing_the_listener_wakes_accept(server: TailnetHandle, timeout: float | None) -> None:
    """Close a listener in another thread: whoever sits in accept gets an OSError."""
    with nothing_left():
        listener = server.listen(":80")
        listener.settimeout(timeout)
        assert isinstance(woken_by(listener.close, listener, wait_in_accept), OSError)
        assert not is_taken(server, 80)


def test_several_threads_are_woken(net: Testnet) -> None:
    """Every thread that sits in a blocking accept is woken when the node closes, on each view."""
    with nothing_left():
        tn = net.tailnet("crowd").up()
        with tn.listen(":80") as listener, listener.dup() as twin, Pool(6) as pool:
            waiting = [pool.submit(wait_in_accept, each) for each in (listener, twin) * 3]
            eventually("all wait", lambda: all(map(waits, pool.threads)))
            tn.close()
            assert all(isinstance(each.result(WAIT), OSError) for each in waiting)


def test_closing_the_node_gives_everything_back(net: Testnet) -> None:
    """After the node's close nothing of an open listener is left but its own descriptor."""
    with nothing_left():
        tn = net.tailnet("left").up()
        listener = tn.listen(":80")
        with listener, listener.as_inet(), listener.plain():
            directory = directory_of(listener)
            tn.close()
            assert not directory.exists()
            assert not tn._node.listening
            listener.close()
            listener.close()


# --- children ---


# Forks with a listener. Parent and child each serve one connection, in turn; then the child sits
# in accept, by argv[1]'s timeout, until the parent's node closes.
FORKING = """
import gc, os, pathlib, socket, sys
from tailnet import TailnetForked
from tailnet.testing import Testnet

timeout = eval(sys.argv[1])

def serve(listener, who):
    conn, peer = listener.accept()
    with conn:
        assert conn.getpeername() == peer and conn.getsockname() == listener.getsockname()
        conn.sendall(who + conn.recv(100))

def say(word):
    os.write(1, word + b"\\n")

with Testnet() as net, net.tailnet("server") as server, net.tailnet("client") as client:
    listener = server.listen(":80")
    listener.settimeout(timeout)
    held = client.dial(listener.getsockname())
    inherited, _ = listener.accept()
    turn, parents = socket.socketpair()
    child = os.fork()
    if not child:
        parents.close()
        try:
            view = listener.dup()
            listener.close()  # this copy; the port stays
            assert os.path.exists(view._listening.path)
            inherited.sendall(b"from the child")
            serve(view, b"child ")
            turn.sendall(b"x")
            for call in (lambda: server.whois("100.64.0.1"), lambda: server.listen(":1"),
                         lambda: client.dial("server:80"), server.status):
                try:
                    call()
                except TailnetForked:
                    pass
                else:
                    raise AssertionError("the child called Go")
            assert turn.recv(1) == b"y"
            try:
                view.accept()
            except OSError as e:
                assert "closed" in str(e), e
                say(b"the child was woken")
            view.close()
            del view, listener
            gc.collect()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    turn.close()
    with client.dial(listener.getsockname()) as out:
        out.sendall(b"hello")
        assert out.recv(100, socket.MSG_WAITALL) == b"child hello"
    assert held.recv(14, socket.MSG_WAITALL) == b"from the child"
    assert parents.recv(1) == b"x"
    with client.dial(listener.getsockname()) as out:
        out.sendall(b"hello")
        serve(listener, b"parent ")
        assert out.recv(100, socket.MSG_WAITALL) == b"parent hello"
    say(b"both served")
    held.close(), inherited.close()
    parents.sendall(b"y")
    stat = f"/proc/{child}/stat"
    while pathlib.Path(stat).read_text().rpartition(")")[2].split()[0] not in "SZ":
        pass
    server.close()
    assert os.waitpid(child, 0)[1] == 0
    listener.close(), parents.close()
"""


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_a_forked_child_accepts(timeout: float | None) -> None:
    """A child serves on an inherited listener, its parent goes on, and whose close wakes it."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            FORKING,
            str(timeout),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == "both served\nthe child was woken\n"
    assert done.returncode == 0
