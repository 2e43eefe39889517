"""One end in Python with threads: what it serves and what it measures.

It serves with a new thread for each connection, or with threads that a pool keeps.

Read next: tasks.py, the same for asyncio; then end.py, the process around both.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable

from .networks import Loopback
from .services import (
    BACKLOG,
    BLOCK,
    HEADER,
    READ_SIZE,
    WRITE_SIZE,
    Answers,
    App,
    answer_length,
    percentiles,
    request,
    serve_http,
)

MOST_THREADS = 128  # of a pool: more than there ever are connections that wait for an answer


def receive(conn: socket.socket, count: int) -> None:
    """Receive so many bytes, and forget them."""
    while count:
        got = len(conn.recv(min(count, READ_SIZE)))
        if not got:
            raise ConnectionError("the other end has closed the connection")
        count -= got


def send(conn: socket.socket, count: int) -> None:
    """Send so many bytes."""
    for _ in range(count // WRITE_SIZE):
        conn.sendall(BLOCK)
    conn.sendall(BLOCK[: count % WRITE_SIZE])


def transfer(conn: socket.socket, count: int, *, sends: bool, receives: bool) -> None:
    """Send so many bytes, receive so many, or both at once."""
    if sends and receives:
        sender = threading.Thread(target=send, args=[conn, count])
        sender.start()
        receive(conn, count)
        sender.join()
    elif sends:
        send(conn, count)
    else:
        receive(conn, count)


def echo(conn: socket.socket, message: bytes) -> None:
    """Send a message and wait until it is back."""
    conn.sendall(message)
    receive(conn, len(message))


def in_a_new_thread(answer: Callable[[socket.socket], None], conn: socket.socket) -> None:
    """Serve a connection, as a pool does it."""
    threading.Thread(target=answer, args=[conn], daemon=True).start()


class Server:
    """The services."""

    def __init__(self, network: Loopback, loop: str, *, pool: bool = False) -> None:
        self._network = network
        self._loop = loop
        self._held: list[socket.socket] = []
        self._serve: Callable[..., object] = in_a_new_thread
        if pool:
            from concurrent.futures import ThreadPoolExecutor

            self._serve = ThreadPoolExecutor(MOST_THREADS).submit

    def start(self, ip: str) -> dict[str, str]:
        """Serve; return the address of each service."""
        answers = {"echo": self._echo, "work": self._work, "hold": self._hold}
        addresses = {}
        for service in (*answers, "http"):
            listener = self._network.listen(service, BACKLOG)
            addresses[service] = f"{ip}:{listener.getsockname()[1]}"
            if service in answers:
                args = [listener, answers[service]]
                threading.Thread(target=self._accept, args=args, daemon=True).start()
            else:
                self._web = listener
        return addresses

    def _accept(self, listener: socket.socket, answer: Callable[[socket.socket], None]) -> None:
        with contextlib.suppress(ConnectionAbortedError):
            while True:
                conn, _ = listener.accept()
                if answer == self._hold:
                    answer(conn)
                else:
                    self._serve(answer, conn)

    def http_on(self) -> Answers:
        """Begin to serve HTTP."""

        async def whois(address: tuple[str, int]) -> str:
            return self._network.whois(address)  # from the cache: it does not wait

        args = [App(whois), self._web, self._loop]
        threading.Thread(target=serve_http, args=args, daemon=True).start()
        return {}

    def _echo(self, conn: socket.socket) -> None:
        with conn, contextlib.suppress(ConnectionError):
            while data := conn.recv(WRITE_SIZE):
                conn.sendall(data)

    def _work(self, conn: socket.socket) -> None:
        with conn, contextlib.suppress(ConnectionError):
            kind, count = HEADER.unpack(conn.recv(HEADER.size, socket.MSG_WAITALL))
            transfer(conn, count, sends=kind != b"u", receives=kind != b"d")
            conn.sendall(b"k")
            conn.recv(1)  # until the other end has read it and closes

    def _hold(self, conn: socket.socket) -> None:
        conn.sendall(b"h")
        self._held.append(conn)

    def release(self) -> Answers:
        """Close what is held."""
        for conn in self._held:
            conn.close()
        self._held.clear()
        return {}


class Client:
    """What is measured. Each method is a command; see end.py."""

    def __init__(self, network: Loopback) -> None:
        self._network = network
        self.address: dict[str, str] = {}
        self._held: list[socket.socket] = []

    def _dial(self, service: str) -> socket.socket:
        return self._network.dial(self.address[service])

    def _share(self, count: int, workers: int, work: Callable[[], None]) -> Answers:
        """Do something so many times, by so many threads."""
        turns = itertools.count()  # next() of it is atomic
        errors: list[BaseException] = []

        def run() -> None:
            try:
                while next(turns) < count:
                    work()
            except BaseException as e:  # noqa: BLE001 - raised below
                errors.append(e)

        threads = [threading.Thread(target=run) for _ in range(workers - 1)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        run()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - start
        if errors:
            raise errors[0]
        return {"seconds": seconds}

    def first_dial(self) -> Answers:
        """Dial, and get one byte back."""
        start = time.perf_counter()
        with self._dial("echo") as conn:
            dialed = time.perf_counter()
            echo(conn, b"x")
            byte = time.perf_counter()
        return {"dial_ms": (dialed - start) * 1e3, "byte_ms": (byte - start) * 1e3}

    def stream(self, kind: str, streams: int, count: int) -> Answers:
        """Move bytes on several connections at once: "u"p, "d"own or "b"oth ways."""
        with contextlib.ExitStack() as stack:
            conns = [stack.enter_context(self._dial("work")) for _ in range(streams)]
            left = list(conns)

            def work() -> None:
                conn = left.pop()
                conn.sendall(HEADER.pack(kind.encode(), count))
                transfer(conn, count, sends=kind != "d", receives=kind != "u")
                receive(conn, 1)

            return self._share(streams, streams, work)

    def round_trip(self, size: int, count: int) -> Answers:
        """Time messages that come back."""
        message = bytes(size)
        times = []
        with self._dial("echo") as conn:
            for _ in range(count):
                start = time.perf_counter()
                echo(conn, message)
                times.append(time.perf_counter() - start)
        return percentiles(times)

    def connect(self, count: int, workers: int) -> Answers:
        """Dial, echo one byte, close."""

        def work() -> None:
            with self._dial("echo") as conn:
                echo(conn, b"x")

        return self._share(count, workers, work)

    def hold(self, count: int, workers: int) -> Answers:
        """Open so many connections, and leave them."""

        def work() -> None:
            conn = self._dial("hold")
            self._held.append(conn)
            receive(conn, 1)

        return self._share(count, workers, work)

    def release(self) -> Answers:
        """Close what is held."""
        start = time.perf_counter()
        for conn in self._held:
            conn.close()
        self._held.clear()
        return {"seconds": time.perf_counter() - start}

    def http(self, count: int, workers: int, keep: bool, path: str) -> Answers:
        """Ask the service, each worker on its own connection, or on one for each request."""
        message = request(path)
        own = threading.local()
        opened: list[socket.socket] = []

        def work() -> None:
            conn = getattr(own, "conn", None) if keep else None
            if conn is None:
                conn = own.conn = self._dial("http")
                if keep:
                    opened.append(conn)
            conn.sendall(message)
            received = b""
            while not (length := answer_length(received)) or len(received) < length:
                data = conn.recv(WRITE_SIZE)
                if not data:
                    raise ConnectionError("the service has closed the connection")
                received += data
            if not keep:
                conn.close()

        try:
            return self._share(count, workers, work)
        finally:
            for conn in opened:
                conn.close()

    def whois(self, count: int) -> Answers:
        """Ask who the other end is."""
        host, _, port = self.address["echo"].rpartition(":")
        who = (host, int(port))
        start = time.perf_counter()
        for _ in range(count):
            self._network.whois(who)
        seconds = (time.perf_counter() - start) / count
        return {"us": seconds * 1e6}
