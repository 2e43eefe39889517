"""What happens around a node: other processes, forks, signals, the end of the interpreter.

Everything here runs in programs of its own: a fork of the process that runs the tests would warn,
and its end cannot be tested from within.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailnet import Tailnet
from tailnet.testing import Testnet
from tests.support.programs import PROGRAM, run, start
from tests.support.waiting import eventually, sits_in


@pytest.fixture(scope="module")
def own_net() -> Iterator[Testnet]:
    """An offline tailnet without a node of this process on it."""
    with Testnet() as testnet:
        yield testnet


SERVER = """
    with Tailnet(TailnetConfig.from_env(hostname=sys.argv[1] if sys.argv[1:] else "server")) as tn:
        with tn.listen(":80") as listener:
            print(tn.ip, flush=True)
            conn, _ = listener.accept()
            conn.sendall(b"hello")
            sys.stdin.read()
"""

CLIENT = """
    with Tailnet(TailnetConfig.from_env(hostname="client")) as tn:
        conn = tn.dial((os.environ["SERVER"], 80), timeout=20)
        assert conn.recv(5) == b"hello"
        print("talking", flush=True)
        try:
            print("end", conn.recv(1))
        except ConnectionResetError as e:
            print("reset", e)
        conn.close()
"""


ASYNC_CLIENT = """
    import asyncio
    async def main():
        asyncio.get_running_loop().slow_callback_duration = 60  # -X dev prints those of 0.1 s
        async with AsyncTailnet(TailnetConfig.from_env(hostname="client")) as tn:
            conn = await tn.dial((os.environ["SERVER"], 80), timeout=20)
            reader, writer = await asyncio.open_connection(sock=conn)
            assert await reader.read(5) == b"hello"
            print("talking", flush=True)
            try:
                print("end", await reader.read(1))
            except ConnectionResetError as e:
                print("reset", e)
            writer.close()
    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("client_code", "signum"),
    [(CLIENT, signal.SIGKILL), (ASYNC_CLIENT, signal.SIGKILL), (CLIENT, signal.SIGTERM)],
    ids=["sync", "asyncio", "terminated"],
)
def test_a_killed_peer_is_a_reset(own_net: Testnet, client_code: str, signum: int) -> None:
    """A peer that is gone without a word shows as ConnectionResetError, not as an end.

    So is one that SIGTERM ends, where nothing handles that.
    """
    keepalive = {"TS_NETSTACK_KEEPALIVE_IDLE": "300ms", "TS_NETSTACK_KEEPALIVE_INTERVAL": "200ms"}
    with start(own_net, SERVER) as server:
        assert server.stdout is not None
        ip = server.stdout.readline().strip()
        with start(own_net, client_code, SERVER=ip, **keepalive) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == "talking\n"
            server.send_signal(signum)
            out, err = client.communicate(timeout=60)
    assert out.startswith(f"reset [Errno 104] connection with {ip} port 80"), out
    assert err == ""


@pytest.mark.parametrize("client_code", [CLIENT, ASYNC_CLIENT], ids=["sync", "asyncio"])
def test_a_peer_that_leaves_is_an_end(own_net: Testnet, client_code: str) -> None:
    """A peer that leaves in order shows as an end, not as a reset."""
    with start(own_net, SERVER) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        ip = server.stdout.readline().strip()
        with start(own_net, client_code, SERVER=ip) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == "talking\n"
            server.stdin.close()
            out, err = client.communicate(timeout=60)
    assert (out, err) == ("end b''\n", "")


def test_the_end_of_the_interpreter_delivers(own_net: Testnet) -> None:
    """A program that ends with everything open delivers what it wrote, and its peer sees an end."""
    leaving = """
        tn = Tailnet(TailnetConfig.from_env(hostname="server")).up()
        listener = tn.listen(":80")
        print(tn.ip, flush=True)
        conn, _ = listener.accept()
        conn.sendall(b"hello")
        conn.sendall(bytes(4 << 20))
        conn.detach(), listener.detach()
    """
    counting = """
        with Tailnet(TailnetConfig.from_env(hostname="client")) as tn:
            with tn.dial((os.environ["SERVER"], 80), timeout=20) as conn:
                print(sum(map(len, iter(lambda: conn.recv(1 << 16), b""))))
    """
    with start(own_net, leaving) as server:
        assert server.stdout is not None
        ip = server.stdout.readline().strip()
        assert run(own_net, counting, SERVER=ip) == f"{5 + (4 << 20)}\n"
        _, err = server.communicate(timeout=60)
        assert server.returncode == 0
        assert "Error" not in err


def test_the_end_of_the_interpreter_ends_who_waits(own_net: Testnet) -> None:
    """A program that just ends, while its threads wait in every call, does so at once, in order."""
    meeting = """
        with Tailnet(TailnetConfig.from_env(hostname="other")) as tn, tn.listen(":80") as listener:
            print(tn.ip, flush=True)
            with tn.dial((sys.stdin.readline().strip(), 80), timeout=20) as dialed:
                with listener.accept()[0] as accepted:
                    for conn in (dialed, accepted):
                        print(conn.recv(5), conn.recv(1))
    """
    leaving = """
        import warnings
        warnings.simplefilter("ignore", ResourceWarning)  # that nothing is closed is the point
        tn = Tailnet(TailnetConfig.from_env(hostname="leaving")).up()
        listener = tn.listen(":80")
        print(tn.ip, flush=True)
        accepted, _ = listener.accept()
        dialed = tn.dial((os.environ["SERVER"], 80), timeout=20)
        accepted.sendall(b"hello"), dialed.sendall(b"hello")
        def wait(call, *args):
            with contextlib.suppress(OSError, TailnetError):
                call(*args)
        for call in (
            [listener.accept], [tn.dial, (os.environ["SILENT"], 80)],
            [lambda: list(tn.watch())], [accepted.recv, 1], [dialed.recv, 1],
        ):
            thread = threading.Thread(target=wait, args=call, daemon=True)
            thread.start()
            print(thread.native_id, flush=True)
        sys.stdin.read()
    """
    with start(own_net, meeting) as peer:
        assert peer.stdout is not None
        assert peer.stdin is not None
        ip = peer.stdout.readline().strip()
        own_net.control.add_fake_nodes(1)  # in the network map, and nowhere else
        nodes = own_net.control.nodes()
        silent = next(str(node.ips[0]) for node in nodes if node.hostname.startswith("fake-"))
        with start(own_net, leaving, SERVER=ip, SILENT=silent) as program:
            assert program.stdout is not None
            peer.stdin.write(program.stdout.readline())
            peer.stdin.flush()
            for call in ("accept", "poll", "poll", "recv", "recv"):
                thread = int(program.stdout.readline())
                eventually(f"it waits in {call}", lambda: sits_in(call, thread))  # noqa: B023
            out, err = program.communicate(timeout=10)
        assert (program.returncode, out, err) == (0, "", "")
        out, err = peer.communicate(timeout=30)
    assert (peer.returncode, out, err) == (0, 2 * "b'hello' b''\n", "")


def test_only_go_has_coarse_timers(own_net: Testnet) -> None:
    """Go's threads, its monitor among them, get 2 ms of slack; those of Python keep theirs."""
    out = run(
        own_net,
        """
        def slack(thread):
            with open(f"/proc/{thread}/timerslack_ns") as file:
                return int(file.read())
        before = slack(os.getpid())
        tn = Tailnet(TailnetConfig.from_env(hostname="patient")).up()
        python = {str(thread.native_id) for thread in threading.enumerate()}
        go = set(os.listdir("/proc/self/task")) - python
        tn.close()
        print(before == slack(os.getpid()), len(go) > 2, {slack(thread) for thread in go})
        """,
    )
    assert out == "True True {2000000}\n"


def test_forked_child(own_net: Testnet) -> None:
    """A child accepts on the inherited listener; all else is TailnetForked; the parent goes on."""
    out = run(
        own_net,
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns at every fork with threads
        with Tailnet(TailnetConfig.from_env(hostname="parent")) as tn, tn.listen(":80") as listener:
            pid = os.fork()
            if pid == 0:
                try:
                    conn, _ = listener.accept()
                    for call in (
                        lambda: tn.dial("x:1"), lambda: tn.listen(":1"),
                        lambda: tn.whois("100.64.0.1"), tn.status,
                        tn.watch, tn.close, lambda: Tailnet(hostname="y").up(),
                    ):
                        started = time.monotonic()
                        try:
                            call()
                            raise SystemExit("no error")
                        except TailnetForked:
                            assert time.monotonic() - started < 0.5
                    conn.sendall(b"from the child")
                    conn.close()
                    listener.close()
                    os._exit(0)
                except BaseException as e:
                    print("child:", repr(e), flush=True)
                    os._exit(1)
            with tn.dial("parent:80") as conn:
                print(conn.recv(100).decode())
            assert os.waitpid(pid, 0)[1] == 0
            with tn.dial("parent:80") as out:
                conn, _ = listener.accept()
                conn.close()
                print(out.recv(1))
        """,
    )
    assert out == "from the child\nb''\n"


@pytest.mark.parametrize("handle", ["node._handle", "0"], ids=["closing", "making"])
def test_a_forked_child_takes_no_lock(own_net: Testnet, handle: str) -> None:
    """A child that was forked while a thread made the node, or closed it, can call close()."""
    out = run(
        own_net,
        f"""
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        with Tailnet(TailnetConfig.from_env(hostname="parent")) as tn:
            node = tn._node
            held, forked = threading.Event(), threading.Event()
            def hold():
                with node._lock:
                    held.set()
                    forked.wait()
            thread = threading.Thread(target=hold)
            thread.start()
            held.wait()
            pid = os.fork()
            if pid == 0:
                signal.alarm(10)
                node._handle = {handle}
                try:
                    tn.close()
                    print("nothing to close", flush=True)
                except TailnetForked:
                    print("the parent's", flush=True)
                os._exit(0)
            forked.set()
            thread.join()
            assert os.waitpid(pid, 0)[1] == 0
        """,
    )
    assert out == ("nothing to close\n" if handle == "0" else "the parent's\n")


def test_a_forked_child_sees_a_reset(own_net: Testnet) -> None:
    """What is cut off is so for a child that has accepted it, as in a worker of gunicorn."""
    out = run(
        own_net,
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        with Tailnet(TailnetConfig.from_env(hostname="parent")) as tn, tn.listen(":80") as listener:
            heard, told = os.pipe()
            pid = os.fork()
            if pid == 0:
                conn, _ = listener.accept()
                print(conn.recv(1), flush=True)
                os.write(told, b"x")
                try:
                    print(conn.recv(1), flush=True)
                except ConnectionResetError as e:
                    print("reset", flush=True)
                os._exit(0)
            caller = Tailnet(TailnetConfig.from_env(hostname="caller")).up()
            with caller.dial("parent:80") as conn:
                conn.send(b"x")
                os.read(heard, 1)
                caller.close(timeout=0)
            assert os.waitpid(pid, 0)[1] == 0
        """,
    )
    assert out == "b'x'\nreset\n"


@pytest.mark.parametrize(("timeout", "call"), [("None", "accept"), ("30", "poll")])
def test_closing_in_the_parent_wakes_a_child(own_net: Testnet, timeout: str, call: str) -> None:
    """Children that sit in accept are all woken when the parent's node closes, blocking or not."""
    code = f"""
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        tn = Tailnet(TailnetConfig.from_env(hostname="parent")).up()
        listener = tn.listen(":80")
        listener.settimeout({timeout})
        children = []
        for _ in range(3):
            children.append(os.fork())
            if children[-1] == 0:
                try:
                    listener.accept()
                except OSError as e:
                    os.write(1, f"woken: {{e}}\\n".encode())  # in one piece, unlike print()
                os._exit(0)
        print(*children, flush=True)
        sys.stdin.read()
        tn.close()
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
        listener.close()
    """
    with start(own_net, code) as program:
        assert program.stdout is not None
        for child in program.stdout.readline().split():
            eventually("the child sits in accept", lambda: sits_in(call, int(child)))  # noqa: B023
        out, err = program.communicate(timeout=30)  # which closes its stdin
    assert (program.returncode, err) == (0, "")
    assert out == 3 * "woken: [Errno 103] this listener or its node was closed\n"


def test_subprocesses_do_not_disturb(own_net: Testnet) -> None:
    """Programs are started from a process with a node, and inherit nothing of it."""
    out = run(
        own_net,
        """
        with Tailnet(TailnetConfig.from_env(hostname="starter")) as tn, tn.listen(":80"):
            for close_fds in (True, False):
                done = subprocess.run(
                    [sys.executable, "-c", "import os; print(len(os.listdir('/proc/self/fd')))"],
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, close_fds=close_fds,
                )
                print(done.returncode, int(done.stdout))
            print("TS_NO_LOGS_NO_SUPPORT" in os.environ, os.environ["TS_AUTHKEY"][:6])
        """,
    )
    assert out == "0 4\n0 4\nTrue tskey-\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_pythons(own_net: Testnet, number: signal.Signals) -> None:
    """A signal reaches Python's handler while a call waits, and the program ends as it decides."""
    code = """
        def handler(number, frame):
            raise SystemExit(40 + number)
        signal.signal(signal.SIGINT, handler)
        signal.signal(signal.SIGTERM, handler)
        with Tailnet(TailnetConfig.from_env()) as tn, tn.listen(":80") as listener:
            print("waiting", flush=True)
            listener.accept()
    """
    with start(own_net, code) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "waiting\n"
        eventually("it sits in accept", lambda: sits_in("accept", program.pid))
        program.send_signal(number)
        _, err = program.communicate(timeout=30)
    assert (program.returncode, err) == (40 + number, "")


@pytest.mark.parametrize("what", ["accept", "up"])
def test_ctrl_c_under_asyncio(own_net: Testnet, what: str) -> None:
    """Ctrl-C while a task accepts, or joins, ends asyncio.run and the program as CPython does."""
    code = """
        import asyncio
        async def main():
            loop = asyncio.get_running_loop()
            loop.slow_callback_duration = 60
            async with AsyncTailnet(TailnetConfig.from_env()) as tn:
                with await tn.listen(":80") as listener:
                    if os.environ["WHAT"] == "accept":
                        print("waiting", flush=True)
                        await loop.sock_accept(listener)
                    with Testnet() as silent:
                        silent.control.fault("hang")
                        print("waiting", flush=True)
                        await silent.async_tailnet("pending").up()
        asyncio.run(main())
    """
    with start(own_net, code, WHAT=what) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "waiting\n"
        eventually("its loop waits", lambda: sits_in("epoll", program.pid))
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=10)
    assert (program.returncode, out) == (-signal.SIGINT, "")
    assert err.startswith("Traceback")
    assert err.endswith("\nKeyboardInterrupt\n")
    assert "never" not in err  # awaited, or retrieved


def test_sigterm_at_its_default_kills_at_once(own_net: Testnet) -> None:
    """SIGTERM ends a program that handles it not, and has a node, as it ends every program."""
    code = """
        with Tailnet(TailnetConfig.from_env()) as tn, tn.listen(":80") as listener:
            print("waiting", flush=True)
            listener.accept()
    """
    with start(own_net, code) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "waiting\n"
        eventually("it sits in accept", lambda: sits_in("accept", program.pid))
        program.terminate()
        out, err = program.communicate(timeout=5)
    assert (program.returncode, out, err) == (-signal.SIGTERM, "", "")


@pytest.mark.parametrize("when", ["before", "after"])
def test_sigpipe_at_its_default_kills_nobody(own_net: Testnet, when: str) -> None:
    """Sockets closed while a peer still sends end no process that has SIGPIPE at its default."""
    pouring = """
        def pour(conn):
            with conn, contextlib.suppress(ConnectionResetError, BrokenPipeError):
                while True:
                    conn.sendall(bytes(1 << 16))
        with Tailnet(TailnetConfig.from_env(hostname="pourer")) as tn, tn.listen(":80") as listener:
            print(tn.ip, flush=True)
            threads = []
            for _ in range(24):
                threads.append(threading.Thread(target=pour, args=[listener.accept()[0]]))
                threads[-1].start()
            for thread in threads:
                thread.join()
            with listener.accept()[0] as conn:
                conn.sendall(b"alive")
    """
    closing = """
        when = os.environ["WHEN"]
        if when == "before":
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        with Tailnet(TailnetConfig.from_env(hostname="closing")) as tn:
            if when == "after":
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            address = os.environ["SERVER"], 80
            for _ in range(3):
                conns = [tn.dial(address, timeout=20) for _ in range(8)]
                for conn in conns:
                    conn.recv(1)
                    conn.close()
            with tn.dial(address, timeout=20) as conn:
                print(conn.recv(5), signal.getsignal(signal.SIGPIPE).name)
    """
    with start(own_net, pouring) as peer:
        assert peer.stdout is not None
        ip = peer.stdout.readline().strip()
        out = run(own_net, closing, SERVER=ip, WHEN=when)
        _, err = peer.communicate(timeout=30)
    assert (peer.returncode, err) == (0, "")
    assert out == "b'alive' SIG_DFL\n"


def test_sigpipe_is_not_raised_by_what_go_writes_to_the_host(own_net: Testnet) -> None:
    """Nor by a write to a TCP connection of this host's kernel that its peer has reset."""
    code = """
        with Tailnet(TailnetConfig.from_env(hostname="writer", allow_host_network=True)) as tn:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            with tn.dial(os.environ["SERVER"], timeout=20) as conn:
                print(conn.recv(3), conn.recv(1), flush=True)
                with contextlib.suppress(ConnectionError):
                    while True:  # Python's own write would raise the signal as well
                        conn.send(b"x", socket.MSG_NOSIGNAL)
            print("alive")
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = start(own_net, code, SERVER="{}:{}".format(*server.getsockname()))
        with program:
            server.settimeout(30)
            with server.accept()[0] as conn:
                conn.sendall(b"end")
                conn.shutdown(socket.SHUT_WR)
                conn.recv(1)  # a reset after an end is EPIPE to the other side
                conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            out, err = program.communicate(timeout=30)
    assert (program.returncode, out, err) == (0, "b'end' b''\nalive\n", "")


def test_a_node_is_not_sent_to_another_process() -> None:
    """Pickling one, as multiprocessing does with an argument, says what to do instead."""
    tn = Tailnet(hostname="here")
    with pytest.raises(TypeError, match=r"node 'here' .* give another one its address"):
        pickle.dumps(tn)
    tn.close()


def test_nothing_is_loaded_or_printed_by_import(own_net: Testnet) -> None:
    """`import tailnet` and a Tailnet that does not join start neither Go nor a thread."""
    out = run(
        own_net,
        """
        Tailnet(hostname="idle").close()
        print(threading.active_count(), "tailnet._native" in sys.modules)
        """,
    )
    assert out == "1 False\n"


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Yield a directory in which the path of a socket is not too long, as it may be in tmp_path."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


def test_what_a_killed_program_left_is_removed_by_the_next(
    own_net: Testnet, short_path: Path
) -> None:
    """Directories of a killed program go when another starts; those of a live one stay."""
    code = """
        with Tailnet(TailnetConfig.from_env(hostname="server")) as tn, tn.listen(":80"):
            print("up", flush=True)
            sys.stdin.read()
    """

    def left() -> set[str]:
        return {path.name for path in short_path.iterdir()}

    def begin() -> subprocess.Popen[str]:
        program = start(own_net, code, TMPDIR=str(short_path))
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
        return program

    with begin() as living:
        kept = left()
        assert len(kept) == 2
        with begin() as killed:
            killed.kill()
        (short_path / "tailnet-scratch-7").mkdir(mode=0o700)  # as Go may name it
        for path in short_path.iterdir():
            os.utime(path, (0, 0))  # a young one may be about to be locked
        (short_path / "tailnet-scratch-of-the-user").mkdir(mode=0o755)
        assert len(left()) == 6
        run(own_net, "Tailnet(TailnetConfig.from_env()).up().close()", TMPDIR=str(short_path))
        assert left() == kept | {"tailnet-scratch-of-the-user"}
        assert living.stdin is not None
        living.stdin.close()
        assert living.wait(30) == 0
    assert left() == {"tailnet-scratch-of-the-user"}


def test_every_start_method_of_multiprocessing(own_net: Testnet, tmp_path: Path) -> None:
    """Workers of every kind work beside a node; those not forked from it may join themselves."""
    program = tmp_path / "program.py"
    program.write_text(
        PROGRAM
        + textwrap.dedent(
            """
            import multiprocessing

            def count(n):
                return sum(range(n))

            def join(name):
                try:
                    with Tailnet(TailnetConfig.from_env(hostname=name)) as tn:
                        return tn.hostname
                except TailnetForked:
                    return "forked"

            if __name__ == "__main__":
                import warnings
                warnings.simplefilter("ignore", DeprecationWarning)
                with Tailnet(TailnetConfig.from_env(hostname="parent")) as tn:
                    for method in ("fork", "spawn", "forkserver"):
                        with multiprocessing.get_context(method).Pool(2) as pool:
                            assert pool.map(count, [10, 100]) == [45, 4950]
                            print(method, pool.apply(join, [f"by-{method}"]))
                            pool.close()
                            pool.join()
                    with tn.listen(":80") as listener, tn.dial("parent:80") as near:
                        listener.accept()[0].close()
                        print(near.recv(1))
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, **own_net.environ(), "TS_EPHEMERAL": "true"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "fork forked\nspawn by-spawn\nforkserver by-forkserver\nb''\n"


def test_gunicorn_forks_workers_onto_an_inherited_listener(
    own_net: Testnet, tmp_path: Path
) -> None:
    """Gunicorn's workers accept on the descriptor; their parent's node feeds them all."""
    # With --preload the barrier is made before the fork: two requests pass it only in two workers.
    (tmp_path / "app.py").write_text(
        "import multiprocessing, os\n"
        "barrier = multiprocessing.Barrier(2)\n"
        "def app(environ, start_response):\n"
        "    if environ['PATH_INFO'] == '/both':\n"
        "        barrier.wait(20)\n"
        "    start_response('200 OK', [('Content-Type', 'text/plain')])\n"
        "    return [f\"{os.getpid()} {environ['REMOTE_ADDR']}\".encode()]\n"
    )
    out = run(
        own_net,
        f"""
        import http.client
        from tests.support.threads import Pool
        with Tailnet(TailnetConfig.from_env(hostname="parent")) as tn, tn.listen(":80") as listener:
            os.set_inheritable(listener.fileno(), True)
            command = [sys.executable, "-m", "gunicorn", "-w", "2", "-b", f"fd://{{listener.fileno()}}",
                       "--chdir", {str(tmp_path)!r}, "--log-level", "error", "--preload",
                       "--graceful-timeout", "5", "app:app"]
            server = subprocess.Popen(command, pass_fds=[listener.fileno()])
            def ask(path):
                client = http.client.HTTPConnection("parent")
                client.sock = tn.create_connection(("parent", 80), timeout=30)
                client.request("GET", path)
                body = client.getresponse().read().decode()
                client.close()
                return body.split(" ")
            try:
                with Pool(2) as both:
                    answers = list(both.map(ask, ["/both", "/both"]))
                print(len({{pid for pid, _ in answers}}))
                answers += [ask("/") for _ in range(60)]
                print(all(str(tn.ip) in peer for _, peer in answers))
                print({{tn.whois(peer).node.hostname for _, peer in answers}})
                server.terminate()
                print(server.wait(30))
            finally:
                server.kill()  # or it would hold our pipes open
        """,
    )
    assert out == "2\nTrue\n{'parent'}\n0\n"


def test_faulthandler_and_go_get_along(own_net: Testnet) -> None:
    """With faulthandler on, a node works, and a fault in C is still reported by Python."""
    code = """
        import faulthandler
        faulthandler.enable()
        with Tailnet(TailnetConfig.from_env(hostname="faulty")) as tn:
            print(tn.status().state, flush=True)
            faulthandler._sigsegv()
    """
    with start(own_net, code) as program:
        out, err = program.communicate(timeout=60)
    assert out == "Running\n"
    assert program.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in err


def test_a_forked_child_holds_no_end_open(own_net: Testnet) -> None:
    """What the library ends has ended for the parent, although a child has a copy of its ends."""
    out = run(
        own_net,
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        tn = Tailnet(TailnetConfig.from_env(hostname="parent")).up()
        listener = tn.listen(":80")
        near = tn.dial(("parent", 80))
        far, _ = listener.accept()
        events = tn.watch()
        stay, go = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(go)
            for ours in (near, far, listener):
                ours.close()
            os.read(stay, 1)
            os._exit(0)
        tn.close(timeout=0)
        for conn in (near, far):
            conn.settimeout(20)
            try:
                print(conn.recv(1))
            except ConnectionResetError:
                print("reset")
            conn.close()
        listener.close()
        for event in events:
            pass
        print("told")
        os.close(go), os.close(stay)
        os.waitpid(pid, 0)
        """,
    )
    *ends, told = out.split()
    assert told == "told"
    assert set(ends) <= {"reset", "b''"}


def test_a_forked_child_does_not_hold_the_state_directory(own_net: Testnet, tmp_path: Path) -> None:
    """When the parent's node is closed, its directory is free, although a child still lives."""
    out = run(
        own_net,
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        config = TailnetConfig.from_env(hostname="parent", ephemeral=False)
        tn = Tailnet(config).up()
        stay, go = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(go)
            os.read(stay, 1)
            os._exit(0)
        tn.close()
        with Tailnet(config) as again:
            print(again.hostname)
        os.close(go), os.close(stay)
        print(os.waitpid(pid, 0)[1])
        """,
        TS_STATE_DIR=str(tmp_path / "state"),
    )
    assert out == "parent\n0\n"


def test_variables_of_tailscale_are_those_it_reads(own_net: Testnet) -> None:
    """Between two nodes a program may change its own TS_* variables, and none that Tailscale reads.

    go/internal/config/linked_test.go holds the list to Tailscale's source.
    """
    out = run(
        own_net,
        """
        os.environ["TS_NODE_PROJECT"] = "tsconfig.json"
        Tailnet(TailnetConfig.from_env(hostname="first")).up().close()
        os.environ["TS_NODE_PROJECT"] = "other.json"
        os.environ["TS_NODE_FILES"] = "true"
        Tailnet(TailnetConfig.from_env(hostname="second")).up().close()
        for name in ("TS_DEBUG_MTU", "https_proxy"):
            os.environ[name] = "1280"
            try:
                Tailnet(TailnetConfig.from_env(hostname="third")).up()
            except TailnetConfigError as e:
                print(e)
            del os.environ[name]
        """,
    )
    mtu, proxy = out.splitlines()
    assert mtu.startswith("environment: TS_DEBUG_MTU changed after this process's first node")
    assert proxy.startswith("environment: https_proxy changed")


def test_descriptors_of_the_library_that_a_program_closes(own_net: Testnet) -> None:
    """Then a join is an error that says so; Go, where it is quicker, aborts the process."""
    code = """
        Tailnet(TailnetConfig.from_env(hostname="before")).up().close()
        os.closerange(3, 1000)
        try:
            Tailnet(TailnetConfig.from_env(hostname="after")).up()
        except TailnetClosed as e:
            os.write(1, str(e).encode())
        os._exit(0)
    """
    for _ in range(5):  # Go misses them when it next waits, which is mostly later
        with start(own_net, code) as program:
            out, _ = program.communicate(timeout=60)
        if program.returncode == 0:
            break
        assert program.returncode == -signal.SIGABRT
    assert out.startswith("this program has closed descriptors of the library")


def test_a_file_for_tls_keys_that_cannot_be_written(own_net: Testnet) -> None:
    """It is a line of the log, and no end of the process as in Tailscale's code."""
    out = run(
        own_net,
        """
        import logging
        lines = []
        class Keep(logging.Handler):
            def emit(self, record):
                lines.append(record.getMessage())
        logging.getLogger("tailnet").addHandler(Keep())
        with Tailnet(TailnetConfig.from_env(hostname="first")) as tn:
            while not any("SSLKEYLOGFILE" in line for line in lines):
                tn.status()
        print(next(line for line in lines if "SSLKEYLOGFILE" in line))
        """,
        SSLKEYLOGFILE="/nowhere/keys",
    )
    assert "SSLKEYLOGFILE: open /nowhere/keys: no such file or directory" in out


def test_ctrl_c_at_every_step_of_making_a_node(own_net: Testnet) -> None:
    """Wherever an interrupt comes while a node is made, close() leaves no node in the library."""
    out = run(
        own_net,
        """
        from tailnet._engine import lib
        from tailnet._node import node as nodes
        config = TailnetConfig.from_env(hostname="torn", control_url="http://127.0.0.1:1")
        Tailnet(config).close()
        lib.stats()
        making = {lib.node_new.__code__, lib._call.__code__, lib._invoke.__code__}
        left = steps = 0

        def trace(frame, event, arg):
            global left
            if frame.f_code not in making:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt  # which also ends the tracing
            return trace

        while True:
            node = nodes.LocalNode(config)
            make = node._made(None)
            left = steps = steps + 1
            sys.settrace(trace)
            try:
                next(make)
            except KeyboardInterrupt:
                assert lib.stats()["nodes"] <= (node._handle != 0), steps
                leaving = node.start_closing(0)
                assert lib.stats()["nodes"] == 0, steps
            except StopIteration:  # it was made before so many steps
                break
            finally:
                sys.settrace(None)
        node.start_closing(0)
        print(steps > 100, lib.stats()["nodes"])
        """,
    )
    assert out == "True 0\n"
