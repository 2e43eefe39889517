"""Who takes part, and one of them at work: two ends, two processes, on a tailnet of their own.

Every contender has an offline control server of its own each time, which ends with it: no peer of
an earlier round is left in anybody's network map, and nobody else's node takes processor time.

Read next: phases.py, what they are told to do.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import build_go
from tailnet.testing import Testnet

from . import libtailscale, machine
from .machine import Usage
from .services import PORTS, Answers

if TYPE_CHECKING:
    from typing_extensions import Self

START_LIMIT = 60.0  # seconds for an end to be ready
ANSWER_LIMIT = 300.0  # seconds for one command

PROGRAMS = build_go.ROOT / "build" / "programs"


class EndSpec(NamedTuple):
    """What is at one end: a face of end.py or "go", and how it is on the network."""

    face: str
    transport: str


class Contender(NamedTuple):
    """Who takes part: how it is called, what it is, and what is at its two ends."""

    name: str
    about: str
    server: EndSpec
    client: EndSpec
    unpatched: bool = False


def _both(name: str, about: str, face: str, transport: str) -> Contender:
    return Contender(name, about, EndSpec(face, transport), EndSpec(face, transport))


_GO, _PYTHON = EndSpec("go", "tsnet"), EndSpec("threads", "embedded")

CONTENDERS = {
    each.name: each
    for each in (
        _both("raw", "Python, threads, TCP on loopback: no tailnet", "threads", "raw"),
        _both("raw-pool", "the same, threads that serve kept in a pool", "pool", "raw"),
        _both("go-raw", "Go, TCP on loopback: no tailnet", "go", "raw"),
        _both("go", "Go at both ends, plain tsnet", "go", "tsnet"),
        _both("go-unpatched", "the same with gVisor as it comes", "go", "tsnet")._replace(
            unpatched=True
        ),
        _both("sync", "tailnet, threads", "threads", "embedded"),
        _both("pool", "tailnet, threads, those that serve kept in a pool", "pool", "embedded"),
        _both("asyncio", "tailnet, asyncio's streams", "asyncio", "embedded"),
        _both("uvloop", "tailnet, asyncio's streams on uvloop", "uvloop", "embedded"),
        _both("libtailscale", "Python, threads, libtailscale by ctypes", "threads", "libtailscale"),
        Contender("sync-to-go", "tailnet with threads dials Go", _GO, _PYTHON),
        Contender("go-to-sync", "Go dials tailnet with threads", _PYTHON, _GO),
        _both("sidecar", "tailnet, threads, a managed tailscaled each", "threads", "managed"),
        Contender(
            "by-hand",
            "Python, threads, no tailnet: `tailscale serve --tcp`, and a dial by SOCKS5",
            EndSpec("threads", "serve"),
            EndSpec("threads", "socks"),
        ),
    )
}
DEFAULT = ["go", "sync", "asyncio", "uvloop", "sidecar", "by-hand", "raw"]


class EndError(Exception):
    """An end cannot do what it was told, or has died; the message is its own."""


class End:
    """One end, running."""

    def __init__(self, command: list[str], about: str, env: dict[str, str]) -> None:
        self.about = about
        how: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, cwd=build_go.ROOT, env=env, **how)
        self.daemons: list[int] = []  # processes that belong to it and are not its children
        try:
            self.ready = self._answer(START_LIMIT)
        except BaseException:
            self.__exit__()
            raise

    def _answer(self, limit: float) -> Answers:
        timer = threading.Timer(limit, self._process.kill)
        timer.start()
        try:
            line = self._pipe(self._process.stdout).readline()
        finally:
            timer.cancel()
        if not line:
            code = self._process.wait()
            raise EndError(f"the {self.about} has ended ({code}), or did not answer in {limit} s")
        answer: Answers = json.loads(line)
        if "error" in answer:
            raise EndError(f"the {self.about} says: {answer['error']}")
        return answer

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def do(self, name: str, **words: Any) -> Answers:
        """Tell it to do something, and return what came of it."""
        try:
            print(json.dumps({"do": name, **words}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise EndError(f"the {self.about} has ended") from None
        return self._answer(ANSWER_LIMIT)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def usage(self) -> Usage:
        """Return what it takes, with its daemon."""
        return machine.usage(machine.family([self.pid, *self.daemons]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._pipe(self._process.stdin).close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()


class Pair:
    """The two ends of a contender: `with Pair(contender) as pair`.

    Args:
        contender: Which.
        symbols: Where the library and the Go end are that the ends run instead; see profiles.py.
        environ: What is set for the ends besides; see tuning.py.

    Attributes:
        start_ms: How long each end took from nothing to being on the tailnet, by role.
    """

    def __init__(
        self,
        contender: Contender,
        symbols: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.contender = contender
        self._symbols = symbols
        self._environ = environ or {}
        self.start_ms: dict[str, float] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.net = stack.enter_context(Testnet())
            self.server = self._end(stack, "server", self.contender.server)
            self.client = self._end(stack, "client", self.contender.client)
            time.sleep(0.3)  # for the server to hear of the client, which takes some 10 ms
            self.client.do("release", address=self.server.ready["address"])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _end(self, stack: contextlib.ExitStack, role: str, spec: EndSpec) -> End:
        begun = time.perf_counter()
        words = [f"--role={role}", f"--hostname={role}"]
        words += [f"--control={self.net.url}", f"--key={self.net.auth_key}"]
        daemon, transport = None, spec.transport
        if transport in ("serve", "socks"):
            daemon, socks = self._daemon(stack, role)
            self.start_ms[role] = (time.perf_counter() - begun) * 1e3
            words += [f"--socks={socks}"]
            transport = "raw" if transport == "serve" else "socks"
        if spec.face == "go":
            go = program(unpatched=self.contender.unpatched)
            command = [str(self._symbols / go.name if self._symbols else go)]
            words = [word.replace("--", "-", 1) for word in words]
            words += [f"-transport={transport}"]
        else:
            command = [sys.executable, "-m", "benchmarks.end", f"--face={spec.face}"]
            words += [f"--transport={transport}"]
            words += [f"--tailscaled={tailscaled()}"] if transport == "managed" else []
        env = {**os.environ, **self._environ}  # with what the offline tailnet has set
        if self._symbols:  # it comes before the library beside the extension
            env["LD_LIBRARY_PATH"] = str(self._symbols)
        end = stack.enter_context(End([*command, *words], f"{self.contender.name} {role}", env))
        self.start_ms.setdefault(role, end.ready["start_ms"])
        if daemon is not None:
            end.daemons.append(daemon.process.pid)
            if role == "server":
                end.ready["address"] = self._serve(daemon, end.ready["address"])
        return end

    def _daemon(self, stack: contextlib.ExitStack, role: str) -> tuple[Any, str]:
        """Run a tailscaled and log in, as a person does; return it and its SOCKS5 server."""
        import pytest  # what the tests' daemon says it with

        from tests.support.daemon import Daemon

        with socket.create_server(("127.0.0.1", 0)) as free:
            socks = f"127.0.0.1:{free.getsockname()[1]}"
        try:
            daemon = stack.enter_context(Daemon(self.net, f"--socks5-server={socks}"))
            daemon.up(role)
        except (AssertionError, pytest.fail.Exception) as error:
            raise EndError(f"tailscaled for the {role}: {error}") from error
        return daemon, socks

    @staticmethod
    def _serve(daemon: Any, address: dict[str, str]) -> dict[str, str]:
        """Let the daemon forward each service; return where they are on the tailnet."""
        ip = daemon.status()["Self"]["TailscaleIPs"][0]
        for service, target in address.items():
            daemon.cli("serve", "--bg", f"--tcp={PORTS[service]}", f"tcp://{target}")
        return {service: f"{ip}:{PORTS[service]}" for service in address}

    def usage(self) -> Usage:
        """Return what both ends take."""
        return self.server.usage() + self.client.usage()


def program(*, unpatched: bool = False) -> Path:
    """Return the Go end, which `build` has built."""
    return PROGRAMS / ("bench-unpatched" if unpatched else "bench")


def tailscaled() -> str:
    """Return the daemon, which `build` has built."""
    return str(PROGRAMS / "tailscaled")


def build(names: list[str]) -> None:
    """Build what these contenders need."""
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    ends = [end for name in names for end in (CONTENDERS[name].server, CONTENDERS[name].client)]
    if any(end.face == "go" for end in ends):
        build_go.build_program("./internal/bench", program())
    if any(CONTENDERS[name].unpatched for name in names):
        # What is mended is mended by a go.work: without one, Go takes its modules as they come.
        go = build_go.find_go()
        command = build_go.program_command(go.path, "./internal/bench", program(unpatched=True))
        env = build_go.go_environ(go.root)
        subprocess.run(command, cwd=build_go.GO_DIR, env=env, check=True)
    if any(end.transport == "libtailscale" for end in ends):
        libtailscale.build()
    if any(end.transport in ("managed", "serve", "socks") for end in ends):
        from tests.support.daemon import binaries

        binaries()
