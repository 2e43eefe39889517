"""What the two ends of a benchmark say to each other, whatever they are written in.

The services of the server, each on a port of its own: `echo` gives back what it gets; `work` takes
a header (what to do, and with how many bytes), then takes or sends that many, and says "k"; `hold`
says one byte, and no more; `http` answers requests. No end of a direction has a meaning, because a
userspace tailscaled does not carry it.

go/internal/bench has the same in Go; read next: networks.py.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

PORTS = {"echo": 7, "work": 9, "hold": 11, "http": 80}

WRITE_SIZE = 64 << 10  # bytes that are written at a time
READ_SIZE = 256 << 10  # bytes that are asked for at a time
BLOCK = bytes(WRITE_SIZE)
ANSWER = bytes(1024)  # the body of an HTTP answer

BACKLOG = 1024  # of every listener

HEADER = struct.Struct(">cQ")  # of `work`: b"u"p, b"d"own or b"b"oth ways; bytes each way

Answers = dict[str, Any]
Whois = Callable[[tuple[str, int]], Awaitable[str]]


def percentiles(seconds: Sequence[float]) -> Answers:
    """Return the median and the tail of some times, in microseconds."""
    times = sorted(seconds)
    last = len(times) - 1
    return {
        name: times[int(share * last)] * 1e6
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))
    }


def request(path: str) -> bytes:
    """Spell an HTTP request. Where a connection serves one alone, it is the client who closes it.

    Else the netstack at the server's end keeps each in TIME_WAIT, and a client that happens to take
    the same port again does not get through meanwhile: a listener of tsnet is none that gVisor's
    handleTimeWaitSegments finds, and the SYN is dropped. That is 60 s in plain tsnet, where dials
    were seen to hang, and 1 s in ours.
    """
    return f"GET {path} HTTP/1.1\r\nHost: service\r\n\r\n".encode()


def answer_length(received: bytes) -> int:
    """Return the length of the HTTP answer that begins here; 0 where its head is incomplete.

    Raises:
        RuntimeError: the service answers with an error.
    """
    head, found, _ = received.partition(b"\r\n\r\n")
    if not found:
        return 0
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise RuntimeError(f"the service answers {head!r}")
    length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
    return len(head) + 4 + int(length)


class App:
    """The HTTP service, an ASGI application: at /who it asks first who is calling."""

    def __init__(self, whois: Whois | None) -> None:
        self._whois = whois

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        headers = [(b"content-length", str(len(ANSWER)).encode())]
        status = 200
        if scope["path"] == "/who" and self._whois is not None:
            if scope["client"]:
                headers.append((b"x-user", (await self._whois(scope["client"])).encode()))
            else:
                status = 403  # uvloop shows no peer
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": ANSWER})


def serve_http(app: App, listener: socket.socket, loop: str) -> None:
    """Run uvicorn in this thread until the process ends."""
    import uvicorn  # late: an idle end has none of it

    options: Any = {"loop": loop, "lifespan": "off", "log_level": "error", "access_log": False}
    server = uvicorn.Server(uvicorn.Config(app, **options))
    server.run(sockets=[listener])
