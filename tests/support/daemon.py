"""A real `tailscaled` on the offline tailnet, for the tests of the sidecar.

Rules of this file:
- Nothing leaves the machine, and nothing stays: a daemon ends with its `with`, and by itself when
  the test process dies (TS_PARENT_DEATH_FD, which Tailscale has for its own tests).
- The daemon is Tailscale's own, with what KEEP names beside what the library is built with.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import http.client
import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from typing_extensions import Self

import build_go
from tailnet.testing import Testnet
from tailnet.testing._control import KNOBS
from tests.support.waiting import WAIT, eventually

# What the daemon needs of what the library leaves out. Without unixsocketidentity a Linux daemon
# refuses every LocalAPI call to everybody, root too; without osrouter it ends when given a TUN.
KEEP = {"osrouter", "unixsocketidentity"}
NOBODY = 65534
NAMESPACE = ("unshare", "--net", "--mount")  # needs root


@functools.cache
def binaries() -> tuple[str, str]:
    """Build tailscaled and tailscale, if need be; return their paths."""
    programs = build_go.ROOT / "build" / "programs"
    programs.mkdir(parents=True, exist_ok=True)
    with (programs / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in ("tailscaled", "tailscale"):
            build_go.build_program("tailscale.com/cmd/" + name, programs / name, KEEP)
    return str(programs / "tailscaled"), str(programs / "tailscale")


def run(argv: Sequence[str], timeout: float = 2 * WAIT, **options: Any) -> str:
    """Run a program to its end; return what it printed. What it says of a failure is in ours."""
    options = {"capture_output": True, "text": True, "cwd": "/", **options}
    done = subprocess.run(argv, check=False, timeout=timeout, **options)
    assert done.returncode == 0, f"{argv} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return cast("str", done.stdout)


def as_user(uid: int, argv: Sequence[str], **options: Any) -> str:
    """Run a program as another user who may go there (often not to sys.executable); see `run`."""
    return run(argv, user=uid, group=uid, extra_groups=(), **options)


def in_namespace(function: Callable[[], object], timeout: float = 5 * WAIT) -> str:
    """Run a module's function in a process with a network of its own, which has a loopback.

    What shall meet is made in there. A Daemon with `tun` sets its addresses and routes by itself.
    """
    words = ["-m", "tests.support.daemon", function.__module__, function.__qualname__]
    return run([*NAMESPACE, sys.executable, *words], timeout, cwd=build_go.ROOT)


def stopped(pid: int) -> None:
    """Wait until a child that was sent SIGSTOP has stopped, with all its threads."""
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)


class LocalAPI(http.client.HTTPConnection):
    """One call of a daemon's LocalAPI, on its socket or a Proxy's."""

    def __init__(self, path: str, timeout: float = WAIT) -> None:
        super().__init__("local-tailscaled.sock", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        """Connect to the unix socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def ask(self, call: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
        """Call "status" or another function; return the HTTP status and the answer."""
        with contextlib.closing(self):
            self.request(method, "/localapi/v0/" + call, body)
            answer = self.getresponse()
            return answer.status, answer.read()

    def watch(self, mask: int = 0) -> Generator[dict[str, Any], None, None]:
        """Yield what watch-ipn-bus says, until the daemon ends the stream."""
        with contextlib.closing(self):
            self.request("GET", f"/localapi/v0/watch-ipn-bus?mask={mask}")
            yield from map(json.loads, iter(self.getresponse().readline, b""))


class Daemon:
    """A tailscaled: `with Daemon(net) as daemon`, which starts it and does not log in.

    It runs as we do, or as a user, then from a copy; with a `tun` such as "tailscale0", in a
    namespace only, or in userspace mode. One that shall come back by itself needs
    Testnet(auth_key=""): Tailscale's test control server asks known nodes for the key again, which
    a daemon does not keep.
    """

    def __init__(self, net: Testnet, *options: str, user: int | None = None, tun: str = "") -> None:
        self.net, self.user, self.tun = net, user, tun
        tailscaled, self._tailscale = binaries()
        self.directory = Path(tempfile.mkdtemp(prefix="tsd-", dir="/tmp"))  # a unix path is short
        self.directory.chmod(0o711)  # all users may come to the socket, as in /var/run
        if user is not None:  # the checkout may lie in a directory that is closed to that user
            copy = functools.partial(shutil.copy2, dst=self.directory)
            tailscaled, self._tailscale = copy(tailscaled), copy(self._tailscale)
        self.socket = str(self.directory / "s")
        self.command = [tailscaled, f"--tun={tun or 'userspace-networking'}", "--port=0"]
        self.command += [f"--socket={self.socket}", f"--statedir={self.directory}/state"]
        self.command += ["--no-logs-no-support", *options]
        self.env = {**KNOBS, **net.environ(), "PATH": os.environ["PATH"]}
        self.env["HOME"] = self.env["TS_LOGS_DIR"] = str(self.directory)
        self.process: subprocess.Popen[bytes] | None = None
        self._alive = -1  # our end of the pipe that the daemon ends with

    def start(self) -> None:
        """Start it and wait until its LocalAPI answers."""
        assert not self.running(), "it runs already"
        theirs, self._alive = os.pipe()
        how: dict[str, Any] = {"env": {**self.env, "TS_PARENT_DEATH_FD": str(theirs)}, "cwd": "/"}
        how.update(pass_fds=[theirs], start_new_session=True, stdin=subprocess.DEVNULL)
        if self.user is not None:
            how.update(user=self.user, group=self.user, extra_groups=())
            os.chown(self.directory, self.user, self.user)
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, **how)
        os.close(theirs)
        eventually("tailscaled answers", self._answers)

    def _answers(self) -> bool:
        assert self.running(), "tailscaled ended"
        with contextlib.suppress(OSError):
            return LocalAPI(self.socket).ask("status")[0] == http.client.OK
        return False

    def running(self) -> bool:
        """Report whether its process is there."""
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        """What it has logged since it was first started."""
        return (self.directory / "log").read_text("utf-8", "replace")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int | None:
        """End it as an administrator does; return its exit code, None where none ran."""
        process, self.process = self.process, None
        if process is None:
            return None
        process.send_signal(how)
        try:
            return process.wait(WAIT)
        finally:
            process.kill()
            process.wait()
            os.close(self._alive)

    kill = functools.partialmethod(stop, signal.SIGKILL)  # as a crash

    @contextlib.contextmanager
    def frozen(self) -> Generator[float, None, None]:
        """Stop its process as a debugger does, and let it go on; yield when it stopped."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)
        try:
            stopped(self.process.pid)
            yield time.monotonic()
        finally:
            self.process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop it if it runs, and start it with the same state and socket."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as failed:
            failed.push(self.__exit__)
            self.start()
            failed.pop_all()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None:
            print(self.log, file=sys.stderr)  # pytest shows it with the failure
        with contextlib.ExitStack() as last:
            last.callback(shutil.rmtree, self.directory)
            self.stop()

    def cli(self, *words: str) -> str:
        """Run `tailscale`; return what it printed."""
        words = (self._tailscale, "--socket=" + self.socket, *words)
        while True:
            try:
                return run(words, env=self.env)
            except AssertionError as e:  # of `tailscale serve`, when we write the configuration too
                if "please try again" not in str(e):
                    raise

    def up(self, hostname: str, *flags: str, auth_key: str = "-", login_server: str = "") -> None:
        """Log in with the tailnet's key, or another one, or none where that is ""."""
        key = self.net.auth_key if auth_key == "-" else auth_key
        words = [f"--login-server={login_server or self.net.url}", f"--hostname={hostname}"]
        words += ["--accept-dns=false", "--netfilter-mode=off"] if self.tun else []
        words += [f"--auth-key={key}"] if key else []
        self.cli("up", f"--timeout={WAIT:.0f}s", *words, *flags)

    down = functools.partialmethod(cli, "down")

    def logout(self) -> None:
        """Log out, and wait until that is what it says: for a moment it is merely stopped.

        It stays so where a last netmap comes once the profile is gone (a race of tailscaled 1.102,
        seen under load), until it starts anew.
        """
        self.cli("logout")
        try:
            eventually("it is logged out", self._is_logged_out, timeout=5)
        except pytest.fail.Exception:
            self.restart()
            eventually("it is logged out", self._is_logged_out)

    def _is_logged_out(self) -> bool:
        return bool(self.status()["BackendState"] == "NeedsLogin")

    def get(self, call: str) -> Any:
        """Return the answer of a LocalAPI function that gives JSON."""
        return json.loads(LocalAPI(self.socket).ask(call)[1]) or {}

    status = functools.partialmethod(get, "status")
    serve_config = functools.partialmethod(get, "serve-config")


# Given a request's body, and what asks the real daemon with a body: the HTTP status and the answer.
Rule = Callable[[bytes, Callable[[bytes], tuple[int, bytes]]], tuple[int, bytes]]


class Proxy(socketserver.ThreadingUnixStreamServer):
    """Another daemon than there is, at `path`: `with Proxy(daemon.socket, {"status": rule})`.

    What has no rule passes as it is. Its SO_PEERCRED, and the daemon's caller, is this process.
    """

    daemon_threads = True  # one that waits for a daemon that hangs keeps nothing from ending

    def __init__(self, upstream: str, rules: Mapping[str, Rule]) -> None:
        self.upstream, self.rules, self.path = upstream, dict(rules), upstream + ".proxy"
        self.clients: list[socket.socket] = []
        super().__init__(self.path, _Pass)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Know every connection, to end it."""
        self.clients.append(request)
        super().process_request(request, client_address)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=[0.05]).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        for each in self.clients:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self.server_close()
        Path(self.path).unlink()


class _Pass(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        """Pass one request by a rule, or bytes both ways and the end of each way."""
        if not (line := self.rfile.readline()):
            return
        method, path, _ = line.decode().split()
        headers = dict(http.client.parse_headers(self.rfile))
        headers.setdefault("Connection", "close")  # "upgrade" stays
        rule = self.server.rules.get(path.split("?")[0].removeprefix("/localapi/v0/"))
        with contextlib.closing(LocalAPI(self.server.upstream)) as api:
            if rule is None:
                api.connect()
                api.sock.sendall(spell(line, headers))
                back = threading.Thread(target=pump, args=[api.sock.recv, self.connection])
                back.start()
                pump(self.rfile.read1, api.sock)
                back.join()
                return
            own: dict[str, str] = {}

            def ask(body: bytes) -> tuple[int, bytes]:
                api.request(method, path, body, headers)
                answer = api.getresponse()
                own.update(answer.headers)
                return answer.status, answer.read()

            status, body = rule(self.body(headers), ask)
            own.pop("Transfer-Encoding", None)
            own |= {"Content-Length": str(len(body)), "Connection": "close"}
            with contextlib.suppress(BrokenPipeError):  # it has not waited
                self.wfile.write(spell(b"HTTP/1.1 %d -\r\n" % status, own) + body)

    def _body(self, headers: dict[str, str]) -> bytes:
        """Read a request's body; Go sends one of unknown length in chunks."""
        if not headers.pop("Transfer-Encoding", ""):
            return self.rfile.read(int(headers.pop("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def body(self, headers: dict[str, str]) -> bytes:
        """Read a request's body, and forget how it was sent."""
        length = int(headers.pop("Content-Length", 0))
        if not headers.pop("Transfer-Encoding", ""):
            return self.rfile.read(length)
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(pieces)


def spell(line: bytes, headers: Mapping[str, str]) -> bytes:
    """Spell the head of a message."""
    return line + "".join(f"{k}: {v}\r\n" for k, v in headers.items()).encode() + b"\r\n"


def pump(read: Callable[[int], bytes], into: socket.socket) -> None:
    """Pass bytes one way until they end."""
    with contextlib.suppress(OSError):
        while data := read(1 << 16):
            into.sendall(data)
        into.shutdown(socket.SHUT_WR)


if __name__ == "__main__":  # in_namespace
    run(["ip", "link", "set", "lo", "up"])
    # A daemon with --accept-dns writes a resolv.conf, which must not be the machine's.
    run(["mount", "--bind", "/dev/null", "/etc/resolv.conf"])
    sys.path.append("tests")  # pytest has the tests as modules of no package
    getattr(__import__(sys.argv[1]), sys.argv[2])()
