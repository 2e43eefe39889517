"""The rows of the table of errors that are the tailscaled backend's."""

from __future__ import annotations

import errno
import pickle
import socket
import time
from collections.abc import Callable
from pathlib import Path

from tailnet import (
    Tailnet,
    TailnetConfig,
    TailnetConfigError,
    TailnetHandle,
    TailnetListenError,
    TailnetNotRunning,
    TailnetUnsupported,
)
from tests.support.daemon import NOBODY, Daemon, Proxy
from tests.support.error_rows import Place, Row
from tests.support.sidecar import program, said

Ask = Callable[[bytes], tuple[int, bytes]]


def through(place: Place, socket_path: str | Path, **fields: object) -> Tailnet:
    """Return a node through the daemon at a socket."""
    document = {"backend": "tailscaled", "tailscaled_socket": socket_path, **fields}
    tailnet = Tailnet(TailnetConfig.model_validate(document))
    place.stack.callback(tailnet.close)
    place.began = time.monotonic()  # starting a daemon is not the error's time
    return tailnet


def listen(place: Place, tn: TailnetHandle) -> object:
    """Listen where it cannot be."""
    place.began = time.monotonic()
    return tn.listen(":80")


def daemon(place: Place) -> Daemon:
    """Start one that has logged in."""
    running = place.stack.enter_context(Daemon(place.net))
    running.up("row")
    return running


def listening(place: Place, *, serves: bool) -> str:
    """Return a socket that is no daemon's: one that answers nonsense, or one left behind."""
    path = str(place.tmp_path / "socket")
    other = socket.socket(socket.AF_UNIX)
    place.stack.callback(other.close)
    other.bind(path)
    if serves:
        other.listen()
    else:
        other.close()
    return path


def stopped(place: Place) -> object:
    running = daemon(place)
    running.down()
    return through(place, running.socket).up()


def logged_out(place: Place) -> object:
    running = place.stack.enter_context(Daemon(place.net))
    return through(place, running.socket).up()


def client_secret(place: Place) -> object:
    running = place.stack.enter_context(Daemon(place.net))
    oauth = {"client_secret": "secret", "tags": ["tag:x"]}
    return through(place, running.socket, control_url=place.net.url, **oauth).up()


AS_NOBODY = """
try:
    began = time.monotonic()  # one clock for all processes
    node = up()
    began = time.monotonic()
    node.listen(":80")
except TailnetError as e:
    print(pickle.dumps((began, e)).hex(), flush=True)
"""


def as_nobody(place: Place, path: str) -> object:
    """Fail as another user does, who joins and listens."""
    with program(path, AS_NOBODY, NOBODY) as other:
        place.began, error = pickle.loads(bytes.fromhex(said(other)))
    raise error


def not_for_us(place: Place) -> object:
    link = place.tmp_path / "socket"
    link.symlink_to(daemon(place).socket)
    place.tmp_path.chmod(0o700)
    return as_nobody(place, str(link))


def hangs(place: Place) -> object:
    running = daemon(place)
    tn = through(place, running.socket).up()
    place.began = place.stack.enter_context(running.frozen())
    return tn.whois("100.64.99.99")


def served_by_others(place: Place) -> object:
    running = daemon(place)
    running.cli("serve", "--bg", "--tcp=80", "tcp://127.0.0.1:9")
    return listen(place, through(place, running.socket).up())


def too_old(place: Place) -> object:
    """Listen through a daemon that does not know what ProxyProtocol is."""

    def forget(body: bytes, ask: Ask) -> tuple[int, bytes]:
        return ask(body.replace(b'"ProxyProtocol"', b'"Unknown"'))

    running = daemon(place)
    proxy = place.stack.enter_context(Proxy(running.socket, {"serve-config": forget}))
    return listen(place, through(place, proxy.path).up())


def half_close(place: Place) -> object:
    tn = through(place, daemon(place).socket).up()
    listener = place.stack.enter_context(place.tn.listen(":0"))
    conn = place.stack.enter_context(tn.dial(listener.getsockname(), timeout=20))
    place.began = time.monotonic()
    conn.shutdown(socket.SHUT_WR)
    return None


def managed(path: str) -> Callable[[Place], object]:
    return lambda place: place.up(
        backend="tailscaled", tailscaled_managed=True, tailscaled_path=path
    )


SIDECAR = [
    Row(
        "there is no socket: no daemon runs",
        lambda p: through(p, p.tmp_path / "none").up(),
        TailnetNotRunning,
        1,
        "is not running",
        "systemctl start",
    ),
    Row(
        "nobody listens at the socket, which a daemon has left behind",
        lambda p: through(p, listening(p, serves=False)).up(),
        TailnetNotRunning,
        1,
        "nobody listens",
        "systemctl start",
    ),
    Row(
        "what listens there does not answer",
        lambda p: through(p, listening(p, serves=True)).up(),
        TailnetNotRunning,
        2,
        "does not answer",
        "systemctl restart",
        note="after 1 s",
    ),
    Row(
        "this user may not open the socket",
        not_for_us,
        TailnetNotRunning,
        1,
        "mode that forbids it",
        "run as a user",
        needs_root=True,
    ),
    Row(
        "`tailscaled_socket` is a directory, or a file of another kind",
        lambda p: through(p, p.tmp_path).up(),
        TailnetConfigError,
        1,
        "is a directory",
        "give the socket",
        ValueError,
    ),
    Row(
        "`tailscaled_socket`, `tailscaled_managed` or `tailscaled_path` without the backend",
        lambda p: p.up(tailscaled_managed=True),
        TailnetConfigError,
        1,
        'backend="tailscaled"',
        "add that",
        ValueError,
        note="before anything starts",
    ),
    Row(
        "the daemon needs a login, and there is an OAuth secret for it",
        client_secret,
        TailnetUnsupported,
        1,
        "OAuth client secret",
        "give it as auth_key",
    ),
    Row("the daemon is stopped", stopped, TailnetNotRunning, 1, "is stopped", "tailscale up"),
    Row(
        "it is logged out, and there is no key",
        logged_out,
        TailnetNotRunning,
        1,
        "is logged out",
        "give an auth_key",
    ),
    Row(
        "its control server is not `control_url`",
        lambda p: through(p, daemon(p).socket, control_url="https://other.example").up(),
        TailnetConfigError,
        1,
        "other.example",
        "leave it out",
        ValueError,
    ),
    Row(
        "the port is served by somebody else",
        served_by_others,
        TailnetListenError,
        1,
        "listen on port 80",
        "serve status --json",
        OSError,
        errno.EADDRINUSE,
    ),
    Row(
        "`listen`: the daemon permits this user to read only",
        lambda p: as_nobody(p, daemon(p).socket),
        TailnetNotRunning,
        1,
        "does not permit this user to listen",
        "--operator=$USER",
        note="dialing and the rest work",
        needs_root=True,
    ),
    Row(
        "any call: the daemon hangs",
        hangs,
        TailnetNotRunning,
        8,
        "does not answer",
        "systemctl restart",
        note="after 5 s; a dial that waits for its peer, and `watch()`, notice within about 10 s",
    ),
    Row(
        "listening through a daemon older than 1.92",
        too_old,
        TailnetUnsupported,
        1,
        "too old",
        "upgrade it",
    ),
    Row(
        "`shutdown(SHUT_WR)` of a connection through a daemon without a TUN",
        half_close,
        TailnetUnsupported,
        1,
        "SHUT_WR",
        "say in your protocol",
        note="nothing has changed",
    ),
    Row(
        "`tailscaled_managed` and `tailscaled_path` is no program",
        managed("/nowhere/tailscaled"),
        TailnetNotRunning,
        1,
        "/nowhere/tailscaled",
        "set tailscaled_path",
    ),
    Row(
        "the managed daemon ends",
        managed("/bin/false"),
        TailnetNotRunning,
        1,
        "has ended",
        "up() starts another",
    ),
]
