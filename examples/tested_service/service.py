"""Two services that greet their callers by name: one that blocks, one for asyncio.

Each takes its listener and its node from outside, so that a test can give it those of an offline
tailnet, and `main` those of a real one: TS_AUTHKEY=tskey-auth-... python service.py
"""

from __future__ import annotations

import asyncio

from tailnet import (
    AsyncTailnetHandle,
    Tailnet,
    TailnetConfig,
    TailnetHandle,
    TailnetListener,
    graceful,
)


class NotPoliteError(ValueError):
    """A caller did not say hello."""


def reply(line: bytes, login: str) -> bytes:
    """Return the answer to one line."""
    if not line.startswith(b"hello"):
        raise NotPoliteError(f"{login} said {line!r}")
    return f"Hello {login}!\n".encode()


def serve(listener: TailnetListener, tn: TailnetHandle) -> None:
    """Greet one caller after the other, until the listener is closed."""
    while True:
        conn, _ = listener.accept()
        with conn, conn.makefile("rb") as lines:
            conn.sendall(reply(lines.readline(), tn.whois(conn).user.login))


async def serve_async(listener: TailnetListener, tn: AsyncTailnetHandle) -> None:
    """Greet all callers at the same time, until cancelled."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(reply(await reader.readline(), (await tn.whois(writer)).user.login))
            await writer.drain()
        finally:
            writer.close()

    async with await asyncio.start_server(greet, sock=listener) as server:
        await server.serve_forever()


def main() -> None:
    """Serve on the tailnet of the auth key, until SIGTERM or Ctrl-C."""
    config = TailnetConfig(hostname="greeter")
    with graceful(), Tailnet(config) as tn, tn.listen(":80") as listener:
        serve(listener, tn)


if __name__ == "__main__":
    main()
