"""One end in Python with asyncio, on its own loop or uvloop's: what threads.py is for threads.

It uses streams, as programs do, and a task per connection.

Read next: end.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Awaitable, Callable

from .networks import AsyncLoopback, Streams
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


async def receive(reader: asyncio.StreamReader, count: int) -> None:
    """Receive so many bytes, and forget them."""
    while count:
        got = len(await reader.read(min(count, READ_SIZE)))
        if not got:
            raise ConnectionError("the other end has closed the connection")
        count -= got


async def send(writer: asyncio.StreamWriter, count: int) -> None:
    """Send so many bytes."""
    for _ in range(count // WRITE_SIZE):
        writer.write(BLOCK)
        await writer.drain()
    writer.write(BLOCK[: count % WRITE_SIZE])
    await writer.drain()


async def transfer(conn: Streams, count: int, *, sends: bool, receives: bool) -> None:
    """Send so many bytes, receive so many, or both at once."""
    reader, writer = conn
    sender = asyncio.ensure_future(send(writer, count)) if sends else None
    if receives:
        await receive(reader, count)
    if sender:
        await sender


async def echo(conn: Streams, message: bytes) -> None:
    """Send a message and wait until it is back."""
    reader, writer = conn
    writer.write(message)
    await receive(reader, len(message))


async def end(conn: Streams) -> None:
    """Close a connection."""
    conn[1].close()
    with contextlib.suppress(ConnectionError):
        await conn[1].wait_closed()


class AsyncServer:
    """The services."""

    def __init__(self, network: AsyncLoopback, loop: str) -> None:
        self._network = network
        self._loop = loop
        self._held: list[Streams] = []
        self._servers: list[asyncio.AbstractServer] = []

    async def start(self, ip: str) -> dict[str, str]:
        """Serve; return the address of each service."""
        answers = {"echo": self._echo, "work": self._work, "hold": self._hold}
        addresses = {}
        for service in (*answers, "http"):
            listener = await self._network.listen(service, BACKLOG)
            addresses[service] = f"{ip}:{listener.getsockname()[1]}"
            if service in answers:
                server = await asyncio.start_server(
                    answers[service], sock=listener, limit=READ_SIZE, backlog=BACKLOG
                )
                self._servers.append(server)  # uvloop's ends with its last reference
            else:
                self._web = listener
        return addresses

    async def http_on(self) -> Answers:
        """Begin to serve HTTP; uvicorn wants a loop of its own."""
        args = [App(self._network.whois), self._web, self._loop]
        threading.Thread(target=serve_http, args=args, daemon=True).start()
        return {}

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(WRITE_SIZE):
                writer.write(data)
                await writer.drain()
        await end((reader, writer))

    async def _work(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, EOFError):
            kind, count = HEADER.unpack(await reader.readexactly(HEADER.size))
            await transfer((reader, writer), count, sends=kind != b"u", receives=kind != b"d")
            writer.write(b"k")
            await reader.read(1)  # until the other end has read it and closes
        await end((reader, writer))

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"h")
        self._held.append((reader, writer))

    async def release(self) -> Answers:
        """Close what is held."""
        held, self._held = self._held, []
        await asyncio.gather(*map(end, held))
        return {}


class AsyncClient:
    """What is measured. Each method is a command; see end.py."""

    def __init__(self, network: AsyncLoopback) -> None:
        self._network = network
        self.address: dict[str, str] = {}
        self._held: list[Streams] = []

    async def _dial(self, service: str) -> Streams:
        return await self._network.dial(self.address[service])

    async def _share(
        self, count: int, workers: int, work: Callable[[], Awaitable[None]]
    ) -> Answers:
        """Do something so many times, by so many tasks."""
        turns = itertools.count()

        async def run() -> None:
            while next(turns) < count:
                await work()

        start = time.perf_counter()
        await asyncio.gather(*(run() for _ in range(workers)))
        return {"seconds": time.perf_counter() - start}

    async def first_dial(self) -> Answers:
        """Dial, and get one byte back."""
        start = time.perf_counter()
        conn = await self._dial("echo")
        dialed = time.perf_counter()
        await echo(conn, b"x")
        byte = time.perf_counter()
        await end(conn)
        return {"dial_ms": (dialed - start) * 1e3, "byte_ms": (byte - start) * 1e3}

    async def stream(self, kind: str, streams: int, count: int) -> Answers:
        """Move bytes on several connections at once: "u"p, "d"own or "b"oth ways."""
        conns = [await self._dial("work") for _ in range(streams)]
        left = list(conns)

        async def work() -> None:
            conn = left.pop()
            conn[1].write(HEADER.pack(kind.encode(), count))
            await transfer(conn, count, sends=kind != "d", receives=kind != "u")
            await receive(conn[0], 1)

        try:
            return await self._share(streams, streams, work)
        finally:
            await asyncio.gather(*map(end, conns))

    async def round_trip(self, size: int, count: int) -> Answers:
        """Time messages that come back."""
        message = bytes(size)
        times = []
        conn = await self._dial("echo")
        for _ in range(count):
            start = time.perf_counter()
            await echo(conn, message)
            times.append(time.perf_counter() - start)
        await end(conn)
        return percentiles(times)

    async def connect(self, count: int, workers: int) -> Answers:
        """Dial, echo one byte, close."""

        async def work() -> None:
            conn = await self._dial("echo")
            await echo(conn, b"x")
            await end(conn)

        return await self._share(count, workers, work)

    async def hold(self, count: int, workers: int) -> Answers:
        """Open so many connections, and leave them."""

        async def work() -> None:
            conn = await self._dial("hold")
            self._held.append(conn)
            await receive(conn[0], 1)

        return await self._share(count, workers, work)

    async def release(self) -> Answers:
        """Close what is held."""
        start = time.perf_counter()
        held, self._held = self._held, []
        await asyncio.gather(*map(end, held))
        return {"seconds": time.perf_counter() - start}

    async def http(self, count: int, workers: int, keep: bool, path: str) -> Answers:
        """Ask the service, each worker on its own connection, or on one for each request."""
        message = request(path)
        idle: list[Streams] = []

        async def work() -> None:
            conn = idle.pop() if idle else await self._dial("http")
            conn[1].write(message)
            received = b""
            while not (length := answer_length(received)) or len(received) < length:
                data = await conn[0].read(WRITE_SIZE)
                if not data:
                    raise ConnectionError("the service has closed the connection")
                received += data
            if keep:
                idle.append(conn)
            else:
                await end(conn)

        try:
            return await self._share(count, workers, work)
        finally:
            await asyncio.gather(*map(end, idle))

    async def whois(self, count: int) -> Answers:
        """Ask who the other end is."""
        host, _, port = self.address["echo"].rpartition(":")
        who = (host, int(port))
        start = time.perf_counter()
        for _ in range(count):
            await self._network.whois(who)
        return {"us": (time.perf_counter() - start) / count * 1e6}
