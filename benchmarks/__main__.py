"""Measure tailnet beside raw loopback TCP: the same work, in turn, in the same run.

Two processes on one machine, an offline tailnet between them: one serves, this one calls. Each
round runs every contender once, so that a drift of the machine hits all alike; only the ratios
within a run count. Prints one JSON object per figure, then the medians.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tailnet import Tailnet, TailnetConfig
from tailnet.testing import Testnet

Dial = Callable[[], socket.socket]

BLOCK = bytes(64 << 10)
STREAM = 64 << 20  # bytes
ROUND_TRIPS = 2000
CONNECTIONS = 300


def stream(dial: Dial) -> float:
    """Send STREAM bytes, wait for the last to be acknowledged; Gbit/s."""
    with dial() as conn:
        conn.sendall(b"s")
        start = time.perf_counter()
        for _ in range(STREAM // len(BLOCK)):
            conn.sendall(BLOCK)
        conn.shutdown(socket.SHUT_WR)
        while conn.recv(1):
            pass
        return STREAM * 8 / (time.perf_counter() - start) / 1e9


def round_trip(dial: Dial) -> float:
    """Echo 64 bytes; the median in microseconds."""
    times = []
    message = bytes(64)
    with dial() as conn:
        conn.sendall(b"e")
        for _ in range(ROUND_TRIPS):
            start = time.perf_counter()
            conn.sendall(message)
            got = 0
            while got < len(message):
                got += len(conn.recv(len(message) - got))
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def connections(dial: Dial) -> float:
    """Dial, echo one byte, close; connections per second, one at a time."""
    start = time.perf_counter()
    for _ in range(CONNECTIONS):
        with dial() as conn:
            conn.sendall(b"e")
            conn.sendall(b"x")
            conn.recv(1)
    return CONNECTIONS / (time.perf_counter() - start)


PHASES = {"stream_gbit_s": stream, "round_trip_us": round_trip, "connections_s": connections}


def answer(conn: socket.socket) -> None:
    """Serve one connection: swallow a stream ("s") or echo ("e")."""
    with conn, contextlib.suppress(ConnectionError):
        kind = conn.recv(1)
        while data := conn.recv(1 << 18):
            if kind == b"e":
                conn.sendall(data)


def accept(listener: socket.socket) -> None:
    """Serve every connection of a listener, each in a thread."""
    while True:
        conn, _ = listener.accept()
        threading.Thread(target=answer, args=[conn], daemon=True).start()


def serve(url: str) -> None:
    """Be the other process: listen on loopback and on the tailnet until stdin ends."""
    raw = socket.create_server(("127.0.0.1", 0))
    with (
        Tailnet(TailnetConfig(hostname="server", control_url=url, ephemeral=True)) as tn,
        tn.listen(":80") as listener,
    ):
        for each in (raw, listener):
            threading.Thread(target=accept, args=[each], daemon=True).start()
        print(raw.getsockname()[1], flush=True)
        sys.stdin.read()


@contextlib.contextmanager
def contenders() -> Iterator[dict[str, Dial]]:
    """Start everything and yield how each contender dials the server."""
    with Testnet() as net, net.tailnet("client") as tn:
        command = [sys.executable, "-m", "benchmarks", "--serve", net.url]
        env = {**os.environ, "TS_AUTHKEY": net.auth_key}
        with subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            port = int(server.stdout.readline())
            try:
                yield {
                    "loopback TCP": lambda: socket.create_connection(("127.0.0.1", port)),
                    "tailnet": lambda: tn.dial("server:80"),
                }
            finally:
                server.stdin.close()


def main() -> None:
    """Run the rounds and print what they gave."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", metavar="URL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve)
    results: dict[str, dict[str, list[float]]] = {}
    with contenders() as dials:
        for number in range(args.rounds):
            for phase, measure in PHASES.items():
                for name, dial in dials.items():
                    value = measure(dial)
                    results.setdefault(phase, {}).setdefault(name, []).append(value)
                    print(
                        json.dumps(
                            {
                                "round": number,
                                "phase": phase,
                                "contender": name,
                                "value": round(value, 3),
                            }
                        )
                    )
    print(f"\n{'median':16}{'loopback TCP':>14}{'tailnet':>10}{'ratio':>8}")
    for phase, by_name in results.items():
        raw, ours = (statistics.median(by_name[name]) for name in ("loopback TCP", "tailnet"))
        print(f"{phase:16}{raw:14.2f}{ours:10.2f}{ours / raw:8.3f}")
    return None


main()
