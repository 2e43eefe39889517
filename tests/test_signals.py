"""SIGTERM, as `docker stop`, systemd and Kubernetes send it: what a program still delivers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType

import pytest

import tailnet
from tailnet import TailnetHandle, TailnetSocket
from tailnet.testing import Testnet
from tests.support.readme import blocks
from tests.support.threads import Pool
from tests.support.waiting import WAIT, eventually, sits_in

SIZE = 40 << 20
LEFT = 3 << 20  # fits into what lies between a writer and a reader that does not read
STOPPED = 128 + signal.SIGTERM

# Beyond what the README's lines say: an application that answers with SIZE bytes.
APP = f"""
import os, signal, sys
import uvicorn
from tailnet import *

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    length = [(b"content-length", b"{SIZE}")]
    await send({{"type": "http.response.start", "status": 200, "headers": length}})
    for _ in range(40):
        await send({{"type": "http.response.body", "body": bytes(1 << 20), "more_body": True}})
    await send({{"type": "http.response.body"}})

"""
UVICORN = next(block for block in blocks() if "uvicorn.Server" in block)


@pytest.fixture(scope="module")
def own_net() -> Iterator[Testnet]:
    """An offline tailnet."""
    with Testnet() as testnet:
        yield testnet


@pytest.fixture(scope="module")
def caller(own_net: Testnet) -> Iterator[TailnetHandle]:
    """Who calls the programs."""
    with own_net.tailnet("caller") as handle:
        yield handle


class Program(subprocess.Popen[str]):
    """A program that ends with a test that fails, and that would else wait for it."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if kind:
            self.kill()
        super().__exit__(kind, error, where)


def serve(net: Testnet, name: str, code: str) -> Program:
    """Start a program of the README's with another name for its node."""
    return Program(
        [sys.executable, "-c", APP + code.replace('"api"', f'"{name}"')],
        env={**os.environ, **net.environ(), "TS_EPHEMERAL": "true"},
        stderr=subprocess.PIPE,
        text=True,
    )


def reach(caller: TailnetHandle, name: str, known: Collection[str] = ()) -> TailnetSocket:
    """Dial a program, not one of the peers that are known: it is there before it listens."""
    reached: list[TailnetSocket] = []

    def listens() -> bool:
        for peer in caller.status().peers:
            if peer.hostname == name and peer.stable_id not in known:
                with contextlib.suppress(ConnectionRefusedError):
                    reached.append(caller.dial((str(peer.ips[0]), 80), timeout=WAIT))
        return bool(reached)

    eventually(f"{name} listens", listens)
    return reached[0]


def hears_all(caller: TailnetHandle, program: Program, name: str, status: int = STOPPED) -> None:
    """Ask, have the program stopped in the middle, read late, and find everything there."""
    with reach(caller, name) as conn, conn.makefile("rb") as answer:
        conn.settimeout(WAIT)
        conn.sendall(b"GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
        while answer.readline() != b"\r\n":
            pass
        got = len(answer.read(SIZE // 2))
        program.terminate()
        got += len(answer.read(SIZE - LEFT - got))
        eventually(
            "the server has ended, and the node waits for the reader, or is gone",
            lambda: program.poll() is not None or sits_in("poll", program.pid),
        )
        while more := answer.read(1 << 14):  # and then the end, or a ConnectionResetError
            got += len(more)
        assert got == SIZE
    assert program.wait(WAIT) == status


@pytest.mark.parametrize("turn", range(3))
def test_uvicorn_delivers_what_it_has_answered(
    own_net: Testnet, caller: TailnetHandle, turn: int
) -> None:
    """The README's lines: at SIGTERM 40 MB reach a slow reader, who then sees the end."""
    with serve(own_net, name := f"uvicorn-{turn}", UVICORN) as program:
        hears_all(caller, program, name)


def test_uvicorn_within_asyncio_delivers(own_net: Testnet, caller: TailnetHandle) -> None:
    """So does `await server.serve()`, where the signal cancels the task that waits in close()."""
    code = """
async def main():
    async with AsyncTailnet(hostname="api") as tn:
        server = uvicorn.Server(uvicorn.Config(app, loop="asyncio"))
        await server.serve(sockets=[await tn.listen(":80")])

import asyncio
with graceful():
    asyncio.run(main())
"""
    with serve(own_net, "uvicorn-async", code) as program:
        hears_all(caller, program, "uvicorn-async")


GUNICORN = f"""
import gunicorn.app.base

class Server(gunicorn.app.base.BaseApplication):
    def load_config(self):
        self.cfg.set("bind", f"fd://{{listener.fileno()}}")
    def load(self):
        def application(environ, start):
            start("200 OK", [("Content-Length", "{SIZE}")])
            return [bytes(1 << 20)] * 40
        return application

with graceful(), Tailnet(hostname="api") as tn, tn.listen(":80") as listener:
    Server().run()
"""
HYPERCORN = """
import asyncio
import hypercorn.asyncio, hypercorn.config

async def main():
    async with AsyncTailnet(hostname="api") as tn:
        listener = await tn.listen(":80")
        config = hypercorn.config.Config()
        config.bind = f"fd://{os.dup(listener.fileno())}"
        await hypercorn.asyncio.serve(app, config)

with graceful():
    asyncio.run(main())
"""


@pytest.mark.parametrize("server", [GUNICORN, HYPERCORN], ids=["gunicorn", "hypercorn"])
def test_servers_that_return_deliver(
    own_net: Testnet, caller: TailnetHandle, server: str, request: pytest.FixtureRequest
) -> None:
    """So do servers that handle SIGTERM and then return; the program ends with their status."""
    with serve(own_net, name := request.node.callspec.id, server) as program:
        hears_all(caller, program, name, 0)


def test_an_interrupted_close_is_finished_before_the_end(
    own_net: Testnet, caller: TailnetHandle
) -> None:
    """Ctrl-C in the middle of close() ends the program, which still delivers what it wrote."""
    code = """
        from tailnet import *
        with Tailnet(TailnetConfig.from_env(hostname="full", ephemeral=True)) as tn:
            with tn.listen(":80") as listener:
                print("ready", flush=True)
                conn, _ = listener.accept()
            conn.setblocking(False)
            written, since = 0, time.monotonic()
            while time.monotonic() < since + 0.5:  # until nothing goes in any more
                with contextlib.suppress(BlockingIOError):
                    written += conn.send(bytes(1 << 16))
                    since = time.monotonic()
            conn.close()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            print(written, flush=True)
        """
    with begin(code, env=own_net.environ()) as program:
        assert program.stdout is not None
        with reach(caller, "full") as conn, conn.makefile("rb") as stream:
            conn.settimeout(WAIT)
            written = int(program.stdout.readline())
            eventually("it waits in close()", lambda: sits_in("poll", program.pid))
            program.send_signal(signal.SIGINT)
            assert program.stderr is not None
            assert any(line == "KeyboardInterrupt\n" for line in program.stderr)
            eventually(
                "it waits at its end, or is gone",
                lambda: program.poll() is not None or sits_in("poll", program.pid),
            )
            assert len(stream.read()) == written
        assert program.wait(WAIT) == -signal.SIGINT


@pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGKILL])
def test_an_ephemeral_node_logs_out_at_sigterm(own_net: Testnet, ends: signal.Signals) -> None:
    """With graceful() the control server forgets it at once; of a killed one it hears nothing."""
    name = f"fleeting-{ends.name.lower()}"
    code = f"""
        from tailnet import *
        with graceful(), Tailnet(TailnetConfig.from_env(hostname="{name}", ephemeral=True)):
            print("ready", flush=True)
            threading.Event().wait()
        """
    with begin(code, env=own_net.environ()) as program:
        assert name in {node.hostname for node in own_net.control.nodes()}
        program.send_signal(ends)
        program.wait(WAIT)
    stays = name in {node.hostname for node in own_net.control.nodes()}
    assert stays is (ends == signal.SIGKILL)


EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("example", ["one_file", "tested_service"])
def test_examples_end_in_order(
    own_net: Testnet, caller: TailnetHandle, tmp_path: Path, example: str
) -> None:
    """At SIGTERM an example leaves the tailnet quietly, with the status that says so."""
    environ = {**os.environ, **own_net.environ(), "HOME": str(tmp_path), "XDG_STATE_HOME": ""}
    command = [sys.executable, "-u", str(EXAMPLES / example / "service.py")]
    known = {peer.stable_id for peer in caller.status().peers}
    with Program(command, env=environ, stderr=subprocess.PIPE, text=True) as program:
        with reach(caller, "greeter", known) as conn:
            conn.settimeout(WAIT)
            conn.sendall(b"hello\n")
            assert conn.recv(6) == b"Hello "
        program.terminate()
        _, err = program.communicate(timeout=WAIT)
    assert (program.returncode, err) == (STOPPED, "")


# Each waits for a stop in its own way, with a node or another thing to leave in `leaving()`.
WAITING = {
    "a system call": """
        with leaving():
            pair = socket.socketpair()
            pair[0].recv(1)
    """,
    "an Event": """
        with leaving():
            threading.Event().wait()
    """,
    "asyncio": """
        async def main():
            try:
                with leaving():
                    await asyncio.get_running_loop().create_future()
            finally:
                await asyncio.sleep(0)
                print("its task goes on")
        asyncio.run(main())
    """,
    "asyncio, within its task": """
        async def main():
            with graceful(), leaving():
                await asyncio.get_running_loop().create_future()
        asyncio.run(main())
    """,
    "a decorated function": """
        @graceful()
        def main():
            with leaving():
                threading.Event().wait()
        main()
    """,
    "uvloop": """
        async def main():
            with leaving():
                await asyncio.get_running_loop().create_future()
        uvloop.new_event_loop().run_until_complete(main())
    """,
    "trio": """
        async def main():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                with leaving():
                    await trio.sleep_forever()
        trio.run(main)
    """,
    "an end of its own": """
        with leaving(), contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    """,
}
PROGRAM = """
import asyncio, contextlib, os, signal, socket, sys, threading, time
from tailnet import graceful

@contextlib.contextmanager
def leaving():
    try:
        print("ready", flush=True)
        yield
    finally:
        print("left")

"""


def begin(
    code: str, *, command: tuple[str, ...] = (), env: Mapping[str, str] | None = None
) -> Program:
    """Start a program, and wait until it says that it is ready."""
    program = Program(
        [*command, sys.executable, "-c", PROGRAM + textwrap.dedent(code)],
        env={**os.environ, **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    return program


def stop(program: Program, *, again: bool = False) -> tuple[int, str, str]:
    """Send SIGTERM, and return the status, the output and the errors of what comes of it."""
    program.terminate()
    if again:
        program.terminate()
    out, err = program.communicate(timeout=WAIT)
    return program.returncode, out, err


@pytest.mark.parametrize("waiting", WAITING)
def test_sigterm_does_what_ctrl_c_does(waiting: str) -> None:
    """Whatever the main thread waits in, SIGTERM leaves all blocks; the status tells of it."""
    code = "import trio, uvloop\nwith graceful():\n" + textwrap.indent(
        textwrap.dedent(WAITING[waiting]), "    "
    )
    with begin(code) as program:
        status, out, err = stop(program)
    assert (status, err) == (STOPPED, "")
    assert out.startswith("left\n")
    assert ("its task goes on" in out) == (waiting == "asyncio")


@pytest.mark.parametrize(
    "code",
    [
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",  # as a shell script's "&" has it
        "signal.signal(signal.SIGINT, lambda *_: sys.exit())",
        "",
    ],
    ids=["ignored", "own handler", "default"],
)
def test_it_uses_the_programs_own_way_to_be_interrupted(code: str) -> None:
    """A handler of SIGINT that the program has is called; where there is none, it is raised."""
    code = f"""
        {code}
        with graceful(), leaving():
            threading.Event().wait()
    """
    with begin(code) as program:
        assert stop(program) == (0 if "exit" in code else STOPPED, "left\n", "")


def test_it_is_nested_and_gives_back() -> None:
    """Blocks within each other are all left, and afterwards every handler is what it was."""
    code = """
        def own(*_): pass
        def now(): return signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
        signal.signal(signal.SIGHUP, own)
        before = now()
        try:
            with graceful(signal.SIGHUP):
                outer = now()
                try:
                    with graceful(), leaving():
                        threading.Event().wait()
                finally:
                    print(outer == now())
        except SystemExit as e:
            print(e.code, before == now())
        with graceful(), contextlib.suppress(KeyboardInterrupt):
            pass
        print("not stopped", before == now())
    """
    with begin(code) as program:
        assert stop(program) == (0, f"left\nTrue\n{STOPPED} True\nnot stopped True\n", "")


FIRST_PROCESS = (
    "unshare",
    *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]),
    *("--pid", "--fork", "--kill-child"),
)


def test_one_request_may_arrive_twice() -> None:
    """A signal to the process and to its group is one request: it does not cut the leaving off."""
    code = """
        with graceful():
            try:
                with leaving():
                    threading.Event().wait()
            finally:
                sys.stdin.read()
                print("all of it")
    """
    with begin(code) as program:
        assert stop(program, again=True) == (STOPPED, "left\nall of it\n", "")


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ((), -signal.SIGTERM),
        pytest.param(
            FIRST_PROCESS,
            STOPPED,
            marks=pytest.mark.skipif(
                shutil.which("unshare") is None
                or subprocess.run([*FIRST_PROCESS, "true"], check=False).returncode != 0,
                reason="needs Linux, unshare(1) and the right to",
            ),
        ),
    ],
    ids=["", "first process"],
)
def test_impatience_kills(command: tuple[str, ...], status: int) -> None:
    """Another signal later kills, in a container too, where no default action does."""
    code = """
        from tailnet._engine import signals
        signals._SAME_REQUEST = 0.0
        with graceful():
            try:
                with leaving():
                    threading.Event().wait()
            finally:
                print("leaving", flush=True)
                sys.stdin.read()
    """
    with begin(code, command=command) as program:
        assert program.stdout is not None
        target = program.pid
        if command:
            (target,) = map(int, Path(f"/proc/{target}/task/{target}/children").read_text().split())
        os.kill(target, signal.SIGTERM)
        assert [program.stdout.readline() for _ in range(2)] == ["left\n", "leaving\n"]
        os.kill(target, signal.SIGTERM)
        assert program.wait(WAIT) == status


def test_a_forked_child_is_killed_as_ever() -> None:
    """A child, as of multiprocessing, ends by SIGTERM, without its parent's blocks."""
    code = """
        with graceful():
            if (child := os.fork()) == 0:
                with leaving():
                    threading.Event().wait()
                os._exit(0)
            sys.stdin.readline()  # a signal that came while it is made would be lost, in Python
            os.kill(child, signal.SIGTERM)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    with begin(code) as program:
        assert program.communicate("\n", timeout=WAIT) == (f"{-signal.SIGTERM}\n", "")


def test_errors_while_leaving_are_seen() -> None:
    """What goes wrong on the way out is raised, and not hidden behind the status."""
    code = """
        with graceful():
            try:
                with leaving():
                    threading.Event().wait()
            finally:
                raise LookupError("lost")
    """
    with begin(code) as program:
        status, _, err = stop(program)
    assert (status, err.splitlines()[-1]) == (1, "LookupError: lost")


def test_it_refuses_what_python_cannot_do() -> None:
    """Another thread, and signals that cannot be handled, get an error that says what can be."""

    def enter(*signals: int) -> None:
        with tailnet.graceful(*signals):
            pass

    before = signal.getsignal(signal.SIGTERM)
    with Pool(1) as pool, pytest.raises(RuntimeError, match="main thread only"):
        pool.submit(enter).result()
    with pytest.raises(ValueError, match="SIGINT raises KeyboardInterrupt by itself"):
        enter(signal.SIGTERM, signal.SIGINT)
    for signum in (signal.SIGKILL, 1000):
        with pytest.raises(ValueError, match="cannot be handled"):
            enter(signal.SIGTERM, signum)
    assert signal.getsignal(signal.SIGTERM) is before
