"""Measure tailnet's backends beside raw loopback TCP: the same work, in turn, in the same run.

Two processes on one machine, an offline tailnet between them: one serves, this one calls. Each
round runs every contender once, so that a drift of the machine hits all alike; only the ratios
within a run count. Prints one JSON object per figure, then the medians. With --tailscaled, nodes
that such a daemon runs (`tailscaled_managed`), one at each end, take part.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

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
        conn.recv(1)  # no half-close, which not every backend has
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
    """Serve one connection: swallow a stream ("s") and say so, or echo ("e")."""
    with conn, contextlib.suppress(ConnectionError):
        kind = conn.recv(1)
        left = STREAM
        while data := conn.recv(1 << 18):
            left -= len(data)
            if kind == b"e":
                conn.sendall(data)
            elif not left:
                conn.sendall(b"k")


def accept(listener: socket.socket) -> None:
    """Serve every connection of a listener, each in a thread."""
    with contextlib.suppress(ConnectionAbortedError):
        while True:
            conn, _ = listener.accept()
            threading.Thread(target=answer, args=[conn], daemon=True).start()


def nodes(url: str, key: str, name: str, tailscaled: str) -> dict[str, Tailnet]:
    """Return one end's node of each backend, by contender."""
    common: dict[str, Any] = {"control_url": url, "auth_key": key, "ephemeral": True}
    found = {"embedded": Tailnet(TailnetConfig(hostname=f"{name}-embedded", **common))}
    if tailscaled:
        common.update(backend="tailscaled", tailscaled_managed=True, tailscaled_path=tailscaled)
        found["tailscaled"] = Tailnet(TailnetConfig(hostname=f"{name}-tailscaled", **common))
    return found


def serve(url: str, key: str, tailscaled: str) -> None:
    """Be the other process: listen on loopback and on the tailnet until stdin ends."""
    raw = socket.create_server(("127.0.0.1", 0))
    with contextlib.ExitStack() as stack:
        listeners = [raw]
        for tailnet in nodes(url, key, "server", tailscaled).values():
            tn = stack.enter_context(tailnet)
            listeners.append(stack.enter_context(tn.listen(":80")))
        for each in listeners:
            threading.Thread(target=accept, args=[each], daemon=True).start()
        print(raw.getsockname()[1], flush=True)
        sys.stdin.read()


@contextlib.contextmanager
def contenders(tailscaled: str) -> Iterator[tuple[dict[str, Dial], dict[str, float]]]:
    """Start everything; yield how each contender dials the server, and its start-up in ms."""
    with Testnet() as net, contextlib.ExitStack() as stack:
        command = [sys.executable, "-m", "benchmarks", "--serve", net.url, net.auth_key]
        server = stack.enter_context(
            subprocess.Popen(
                [*command, "--tailscaled", tailscaled],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert server.stdin is not None
        assert server.stdout is not None
        stack.callback(server.stdin.close)
        port = int(server.stdout.readline())
        dials: dict[str, Dial] = {
            "loopback TCP": lambda: socket.create_connection(("127.0.0.1", port))
        }
        starts: dict[str, float] = {}
        for name, tailnet in nodes(net.url, net.auth_key, "client", tailscaled).items():
            start = time.perf_counter()
            tn = stack.enter_context(tailnet)
            starts[name] = (time.perf_counter() - start) * 1000
            dials[name] = functools.partial(tn.dial, f"server-{name}:80")
        yield dials, starts


def main() -> None:
    """Run the rounds and print what they gave."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tailscaled", default="", help="the daemon to run")
    parser.add_argument("--serve", nargs=2, metavar=("URL", "KEY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        url, key = args.serve
        return serve(url, key, args.tailscaled)
    results: dict[str, dict[str, list[float]]] = {}
    with contenders(args.tailscaled) as (dials, starts):
        for name, value in starts.items():
            print(json.dumps({"phase": "start_ms", "contender": name, "value": round(value, 1)}))
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
    print("\nmedian; in brackets, over loopback TCP")
    for phase, by_name in results.items():
        medians = {name: statistics.median(values) for name, values in by_name.items()}
        raw = medians["loopback TCP"]
        cells = (f"{name} {value:.2f} ({value / raw:.3f})" for name, value in medians.items())
        print(f"{phase:16}{'   '.join(cells)}")
    return None


main()
