"""A tailscaled lives on its own terms: what a node of it does meanwhile, and afterwards."""

from __future__ import annotations

import contextlib
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tailnet import (
    Tailnet,
    TailnetAuthError,
    TailnetError,
    TailnetHandle,
    TailnetListener,
    TailnetNotRunning,
    models,
)
from tailnet.testing import Testnet
from tests.support.daemon import Daemon
from tests.support.faces import Face
from tests.support.held import nothing_left
from tests.support.limits import descriptors
from tests.support.sidecar import States, config, knows, program, said, served, tell
from tests.support.waiting import WAIT, eventually

# For what has gone: long enough for this machine, far from any timeout of a daemon that is there.
PROMPTLY = 2.0


@pytest.fixture(scope="module")
def open_net() -> Iterator[Testnet]:
    """A tailnet that asks for no key, so that a daemon comes back by itself."""
    with Testnet(auth_key="") as net:
        net.tailnet("first").up().close()
        yield net


@pytest.fixture(scope="module")
def peer(open_net: Testnet) -> Iterator[TailnetHandle]:
    """Somebody else of the tailnet."""
    with open_net.tailnet("peer") as each:
        yield each


@pytest.fixture
def daemon(open_net: Testnet, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon of one test."""
    with Daemon(open_net) as each:
        each.up(request.node.originalname.replace("_", "-")[:50])
        yield each


def is_running(daemon: Daemon) -> None:
    """Wait until the daemon is back."""
    eventually("it runs", lambda: daemon.status().get("BackendState") == "Running")


def calls(node: TailnetHandle, peer: TailnetHandle) -> dict[str, Callable[[], object]]:
    """Return what can be asked of a node."""
    return {
        "dial": lambda: node.dial((str(peer.ip), 80), timeout=WAIT),
        "dial by name": lambda: node.dial((peer.hostname, 80), timeout=WAIT),
        "whois": lambda: node.whois(peer.ip, timeout=WAIT),
        "status": lambda: node.status(timeout=WAIT),
        "ping": lambda: node.ping(peer.ip, timeout=WAIT),
        "capture": lambda: node.capture(Path(tempfile.gettempdir(), "never.pcap"), seconds=0.01),
        "listen": lambda: node.listen(":0", timeout=WAIT),
    }


def what_fails(
    node: TailnetHandle, peer: TailnetHandle, kind: type[TailnetError], match: str, *but: str
) -> None:
    """Every call fails promptly with that error, but some; all are tried before one is named."""
    wrong = {}

    def noticed() -> bool:
        try:
            node.whois(peer.ip, timeout=WAIT)
        except TailnetError:
            return True
        return False

    if "whois" not in but:  # which is answered from a cache, while nothing has been heard
        eventually("it is noticed", noticed, timeout=PROMPTLY)
    for name, call in calls(node, peer).items():
        began = time.monotonic()
        try:
            result: object = call()
        except TailnetError as e:
            result = e
        took = time.monotonic() - began
        ok = isinstance(result, kind) and match in str(result) and took < PROMPTLY
        if name not in but and not ok:
            wrong[name] = (result, round(took, 2))
    assert not wrong


def works(node: TailnetHandle, peer: TailnetHandle, listener: TailnetListener) -> None:
    """Connections come in, to the port there was, and go out, and end in order."""
    ip, port = str(node.ip), listener.getsockname()[1]
    listener.settimeout(WAIT)

    def greeted() -> bool:
        with contextlib.suppress(OSError), peer.dial((ip, port), timeout=5) as near:
            near.settimeout(5)
            listener.settimeout(5)
            far, address = listener.accept()
            with far:
                far.sendall(b"hello")
                assert address[0] == str(peer.ip)
                assert near.recv(5, socket.MSG_WAITALL) == b"hello"
                near.close()
                return far.recv(1) == b""
        return False

    eventually("connections come in", greeted)
    with peer.listen(":80") as there, node.dial((peer.hostname, 80), timeout=WAIT) as out:
        there.settimeout(WAIT)
        with there.accept()[0] as far:
            out.sendall(b"out")
            assert far.recv(3, socket.MSG_WAITALL) == b"out"
        assert out.recv(1) == b""
    assert node.whois(peer.ip).node.hostname == peer.hostname
    assert node.status().state == "Running"


def test_watch_says_that_it_is_gone_and_back(face: Face, daemon: Daemon) -> None:
    """A daemon that ends and starts again: NoState, and in the end Running."""
    with (
        nothing_left(),
        face.node(config(daemon)) as node,
        contextlib.closing(States(face, node.handle)) as states,
    ):
        states.until("Running")
        for end in (daemon.stop, daemon.kill):
            end()
            assert states.until("NoState") == ["NoState"]
            with pytest.raises(TailnetNotRunning, match="not running"):
                node.dial("peer:80")
            daemon.start()
            states.until("Running")
        daemon.down()
        states.until("Stopped")
        daemon.cli("up")
        states.until("Running")
        daemon.logout()
        states.until("NeedsLogin")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_restart(daemon: Daemon, peer: TailnetHandle, end: str) -> None:
    """The daemon ends: calls say so. It is back: the listener is too, and nobody did a thing."""
    with nothing_left(), Tailnet(config(daemon)) as node, node.listen(":8080") as listener:
        works(node, peer, listener)
        getattr(daemon, end)()
        what_fails(node, peer, TailnetNotRunning, "tailscaled is not running")
        daemon.start()
        is_running(daemon)
        eventually("it is served again", lambda: served(daemon).keys() == {8080})
        works(node, peer, listener)


def test_no_question_is_answered_for_who_is_gone(daemon: Daemon, peer: TailnetHandle) -> None:
    """Nor from a cache: while nobody knows who has an address, nobody is named."""
    with Tailnet(config(daemon)) as node:
        eventually("it knows", lambda: str(peer.ip) in str(daemon.status()["Peer"]))
        node.whois(peer.ip)
        daemon.kill()
        with contextlib.closing(node.watch()) as watch:
            assert watch.next(WAIT) == models.StateChanged(state="NoState")
        with pytest.raises(TailnetNotRunning):
            node.whois(peer.ip)


def test_down_and_up(daemon: Daemon, peer: TailnetHandle) -> None:
    """It is stopped for a while."""
    with nothing_left(), Tailnet(config(daemon)) as node, node.listen(":8080") as listener:
        works(node, peer, listener)
        daemon.down()
        what_fails(node, peer, TailnetNotRunning, "is stopped", "status", "whois")
        assert node.status().state == "Stopped"
        daemon.cli("up")
        works(node, peer, listener)


def test_logout_and_login(daemon: Daemon, peer: TailnetHandle) -> None:
    """It logs out; it is another node when it logs in again, and that is said."""
    with Tailnet(config(daemon)) as node, node.listen(":8080"):
        before = daemon.status()["Self"]["ID"]
        daemon.logout()
        what_fails(node, peer, TailnetNotRunning, "logged out", "status", "whois")
        daemon.up("again")
        is_running(daemon)
        if daemon.status()["Self"]["ID"] != before:
            what_fails(node, peer, TailnetNotRunning, "another node")
            assert not served(daemon)


def test_logout_with_a_key(net: Testnet) -> None:
    """That a key was given does not change what is said of a daemon that has logged out."""
    with Daemon(net) as daemon, net.tailnet("other") as other:
        fields = {"control_url": net.url, "auth_key": net.auth_key}
        with Tailnet(config(daemon, **fields)) as node:
            daemon.logout()
            what_fails(node, other, TailnetNotRunning, "logged out", "status", "whois")


def switched(daemon: Daemon) -> tuple[str, str]:
    """Log in to a second account; return the ids of the first and the second."""
    first = daemon.get("profiles/current")["ID"]
    daemon.cli("login", f"--login-server={daemon.net.url}", "--hostname=second")
    is_running(daemon)
    return first, daemon.get("profiles/current")["ID"]


def test_another_account_and_back(daemon: Daemon, peer: TailnetHandle) -> None:
    """The daemon switches: it is another node now, which says so; it is ours again afterwards."""
    with nothing_left(), Tailnet(config(daemon)) as node, node.listen(":8080") as listener:
        works(node, peer, listener)
        first, _ = switched(daemon)
        assert daemon.status()["TailscaleIPs"][0] != str(node.ip)
        what_fails(node, peer, TailnetNotRunning, "another node now, second", "status", "whois")
        daemon.cli("switch", first)
        is_running(daemon)
        works(node, peer, listener)


def test_another_account_is_told_nothing(daemon: Daemon, peer: TailnetHandle) -> None:
    """While the daemon is another node, status and whois are not those of that node."""
    with Tailnet(config(daemon)) as node:
        switched(daemon)
        with pytest.raises(TailnetNotRunning, match="another node"):
            node.status()
        with pytest.raises(TailnetNotRunning, match="another node"):
            node.whois(peer.ip)


@pytest.mark.parametrize("restarts", [0, 5], ids=["at once", "after restarts"])
def test_another_account_serves_nothing_of_ours(daemon: Daemon, restarts: int) -> None:
    """What listens is on the node that it was opened on, and on no other one."""
    with Tailnet(config(daemon)) as node, node.listen(":8080"):
        assert served(daemon).keys() == {8080}
        first, _ = switched(daemon)
        for restart in range(restarts + 1):
            if restart:
                daemon.restart()
                is_running(daemon)
            with contextlib.closing(node.watch()) as watch:
                watch.next(WAIT)
            with pytest.raises(pytest.fail.Exception, match="never"):
                eventually("it serves what is ours", lambda: 8080 in served(daemon), timeout=0.4)
        daemon.cli("switch", first)
        is_running(daemon)
        eventually("it is served again", lambda: served(daemon).keys() == {8080})


def test_a_key_that_expires(daemon: Daemon, peer: TailnetHandle) -> None:
    """The node is no longer logged in, until its key is extended."""
    name = daemon.status()["Self"]["HostName"]
    with Tailnet(config(daemon)) as node, node.listen(":8080") as listener:
        works(node, peer, listener)
        daemon.net.control.expire_keys(name)
        eventually("it is known", lambda: daemon.status()["BackendState"] == "NeedsLogin")
        what_fails(node, peer, TailnetAuthError, "key has expired", "status", "whois")
        daemon.net.control.extend_keys(name)
        is_running(daemon)
        works(node, peer, listener)


def test_closing_while_it_is_gone(face: Face, daemon: Daemon) -> None:
    """A node is closed in time although its daemon is not there, and leaves nothing."""
    with nothing_left():
        with face.node(config(daemon)) as node:
            listener = node.listen(":8080")
            daemon.stop()
            began = time.monotonic()
        assert time.monotonic() - began < PROMPTLY
        listener.close()


def test_a_daemon_that_cannot_be_asked_is_not_gone(daemon: Daemon, peer: TailnetHandle) -> None:
    """Without a free descriptor an end in order is one."""
    with Tailnet(config(daemon)) as node, peer.listen(":0") as listener:
        knows(daemon, peer)
        with node.dial((str(peer.ip), listener.getsockname()[1]), timeout=WAIT) as near:
            near.settimeout(WAIT)
            with listener.accept()[0] as far, descriptors(0):
                far.sendall(b"x")
                far.shutdown(socket.SHUT_WR)
                assert near.recv(1) == b"x"
                assert near.recv(1) == b""


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("dials", [False, True])
def test_a_killed_daemon_resets_every_connection(
    daemon: Daemon, peer: TailnetHandle, dials: bool, streaming: bool
) -> None:
    """The kernel ends what a killed daemon had open in order, and before or after its socket."""
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(Tailnet(config(daemon)))
        knows(daemon, peer)
        here, there = (node, peer) if dials else (peer, node)
        listener = stack.enter_context(there.listen(":0"))
        ours: list[socket.socket] = []
        for _ in range(16):
            address = str(there.ip), listener.getsockname()[1]
            dialed = stack.enter_context(here.dial(address, timeout=WAIT))
            accepted = stack.enter_context(listener.accept()[0])
            mine, theirs = (dialed, accepted) if dials else (accepted, dialed)
            theirs.sendall(bytes(1 << 20 if streaming else 1))
            mine.settimeout(WAIT)
            assert mine.recv(1) == b"\0"
            ours.append(mine)
        daemon.kill()
        for each in ours:
            with pytest.raises(ConnectionResetError):
                read_to_the_end(each)


DIALS = """
    from tests.support.threads import Pool
    def whole(_):
        with node.dial((%r, %d), timeout=60) as near:
            while near.recv(1 << 16):
                pass
    node = up()
    with Pool(%d) as pool:
        print("up", flush=True)
        sys.stdin.readline()
        dials = [pool.submit(whole, n) for n in range(%d)]
    print(*(type(dial.exception()).__name__ for dial in dials), flush=True)
"""


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_daemon_restarts_while_a_stopped_program_dials(
    daemon: Daemon, peer: TailnetHandle, end: str
) -> None:
    """What then was cut off does not look complete, although a daemon is there again."""
    count = 10
    with (
        peer.listen(":0", backlog=count) as listener,
        program(
            daemon.socket, DIALS % (str(peer.ip), listener.getsockname()[1], count, count)
        ) as other,
        contextlib.ExitStack() as stack,
    ):
        assert said(other) == "up"
        with daemon.frozen():
            before = connections_to(daemon)  # there, none of them goes while it is frozen
            tell(other)
            eventually("it dials", lambda: connections_to(daemon) >= before + count)
            eventually("it waits for answers", lambda: set(task_states(other.pid)) == {"S"})
            other.send_signal(signal.SIGSTOP)
        for _ in range(count):
            far = stack.enter_context(listener.accept()[0])
            far.setblocking(False)
            far.send(bytes(3 << 20))
        getattr(daemon, end)()
        daemon.start()
        is_running(daemon)
        other.send_signal(signal.SIGCONT)
        assert set(said(other).split()) <= {"ConnectionResetError", "TailnetDialError"}


def connections_to(daemon: Daemon) -> int:
    """Return how many sockets of the daemon's path there are, its listening one included."""
    return Path("/proc/net/unix").read_text("ascii").count(f" {daemon.socket}\n")


def task_states(pid: int) -> list[str]:
    """Return what the threads of a process do: S where one sleeps."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [(task / "stat").read_text("ascii").rpartition(")")[2].split()[0] for task in tasks]


def read_to_the_end(conn: socket.socket) -> None:
    """Read what there is, and its end."""
    while conn.recv(1 << 20):
        pass
