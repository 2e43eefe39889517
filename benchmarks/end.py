"""One end of a benchmark, a process: `python -m benchmarks.end`. Started by contenders.py.

It joins, says so, and then does what it is told: one JSON object per line on stdin, one answer each
on stdout. The first line is {"start_ms", "ip", "address"}; a failure is {"error"}. It ends with
its stdin, or after "close". go/internal/bench is the same in Go.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import sys
import time
from typing import Any, NoReturn

from .networks import AsyncLoopback, Loopback, Socks
from .services import Answers

# What an end needs is imported where it begins: what it does not need, its memory shall not hold.

FACES = ["threads", "pool", "asyncio", "uvloop"]
TRANSPORTS = ["raw", "socks", "embedded", "managed", "libtailscale"]


def options() -> argparse.Namespace:
    """Return what this process was told to be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.end", description=__doc__)
    parser.add_argument("--face", choices=FACES, default="threads")
    parser.add_argument("--transport", choices=TRANSPORTS)
    parser.add_argument("--role", choices=["server", "client"])
    parser.add_argument("--hostname", default="bench")
    parser.add_argument("--control", default="")
    parser.add_argument("--key", default="")
    parser.add_argument("--tailscaled", default="", help="the daemon, for `managed`")
    parser.add_argument("--socks", default="", help="the daemon's SOCKS5 server, for `socks`")
    return parser.parse_args()


def say(answer: Answers) -> None:
    """Answer."""
    print(json.dumps(answer), flush=True)


def command(client: Any, server: Any, name: str) -> Any:
    """Return the method that is the command."""
    return getattr(server if server is not None and hasattr(server, name) else client, name)


def take(client: Any, line: str) -> tuple[str, Answers]:
    """Return a command's name and arguments."""
    words = json.loads(line)
    client.address.update(words.pop("address", {}))
    if "bytes" in words:
        words["count"] = words.pop("bytes")
    return words.pop("do"), words


def leave() -> NoReturn:
    """End the process: what a loop has to say of connections that still stand is not asked for."""
    sys.stdout.flush()
    os._exit(0)


def failed(error: Exception) -> Answers:
    """Spell what went wrong."""
    return {"error": f"{type(error).__name__}: {error}"}


def settings(args: argparse.Namespace) -> Any:
    """Return the configuration of the node."""
    from .nodes import config

    where = {"control_url": args.control, "auth_key": args.key, "hostname": args.hostname}
    return config(args.transport, args.tailscaled, **where)


def run(args: argparse.Namespace) -> NoReturn:
    """Be an end with threads."""
    from .threads import Client, Server

    network: Loopback
    if args.transport == "raw":
        network = Loopback()
    elif args.transport == "socks":
        network = Socks(args.socks)
    elif args.transport == "libtailscale":
        from .libtailscale import LibTailscale

        network = LibTailscale(args.control, args.key, args.hostname)
    else:
        from .nodes import Ours

        network = Ours(settings(args))
    start = time.perf_counter()
    ip = network.join()
    ready: Answers = {"start_ms": (time.perf_counter() - start) * 1e3, "ip": ip}
    serves = args.role == "server"
    server = Server(network, "asyncio", pool=args.face == "pool") if serves else None
    if server:
        ready["address"] = server.start(ip)
    say(ready)
    client = Client(network)
    for line in sys.stdin:
        name, words = take(client, line)
        try:
            if name == "close":
                start = time.perf_counter()
                network.close()
                say({"seconds": time.perf_counter() - start})
                leave()
            if name == "path":
                say({"direct": network.path(client.address["echo"])})
            else:
                say(command(client, server, name)(**words))
        except Exception as e:  # noqa: BLE001 - the parent reports it
            say(failed(e))
    leave()


async def run_async(args: argparse.Namespace) -> NoReturn:
    """Be an end with asyncio."""
    import asyncio

    from .tasks import AsyncClient, AsyncServer

    network = AsyncLoopback()
    if args.transport != "raw":
        from .nodes import AsyncOurs

        network = AsyncOurs(settings(args))
    start = time.perf_counter()
    ip = await network.join()
    ready: Answers = {"start_ms": (time.perf_counter() - start) * 1e3, "ip": ip}
    server = AsyncServer(network, args.face) if args.role == "server" else None
    if server:
        ready["address"] = await server.start(ip)
    say(ready)
    client = AsyncClient(network)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        name, words = take(client, line)
        try:
            if name == "close":
                start = time.perf_counter()
                await network.close()
                say({"seconds": time.perf_counter() - start})
                leave()
            if name == "path":
                say({"direct": await network.path(client.address["echo"])})
            else:
                say(await command(client, server, name)(**words))
        except Exception as e:  # noqa: BLE001 - the parent reports it
            say(failed(e))
    leave()


def main() -> None:
    """Be an end."""
    args = options()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(KeyboardInterrupt):
        if args.face in ("threads", "pool"):
            run(args)
        elif args.face == "uvloop":
            import uvloop

            uvloop.run(run_async(args))
        else:
            import asyncio

            asyncio.run(run_async(args))


main()
