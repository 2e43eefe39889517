"""What is measured: each phase tells the two ends what to do, and yields figures.

Each phase does a fixed amount of work, the
same for every contender; `scale` makes all of them shorter or longer. CPU is that of both ends and
of their daemons, in the kernel too; the control server's is left out.

Read next: limits.py, what the figures should be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from . import imports, machine
from .contenders import Pair
from .figures import HTTP, PEERS, ROUND_TRIP_SIZES, SETTLE, WORKERS, Figure
from .machine import Usage
from .services import Answers

MIB = 2**20


class Cost:
    """The CPU that both ends take, from when this is made."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._before = pair.usage().cpu

    def seconds(self) -> float:
        """Return it, in seconds."""
        return self._pair.usage().cpu - self._before


def _ends(pair: Pair) -> Iterator[tuple[str, Usage]]:
    yield "client", pair.client.usage()
    yield "server", pair.server.usage()


def start(pair: Pair, scale: float) -> Iterator[Figure]:
    """Start, first dial, and what an idle node holds. Run by itself, before all else."""
    del scale
    yield Figure("start_ms", pair.start_ms["client"])
    for end, usage in _ends(pair):
        yield Figure(f"rss_idle_{end}", usage.rss)
        yield Figure(f"threads_idle_{end}", usage.threads)
    answer = pair.client.do("first_dial")
    yield Figure("dial_ms", answer["dial_ms"])
    yield Figure("byte_ms", answer["byte_ms"])
    pair.client.do("round_trip", size=64, count=200)  # until the direct path is found and used
    pair.client.do("stream", kind="u", streams=1, bytes=MIB)
    way = pair.client.do("path")["direct"]
    if way not in ("loopback", "unknown"):
        yield Figure("direct", float(bool(way)))


def importing(pair: Pair, scale: float) -> Iterator[Figure]:
    """Import and load in fresh processes. Once a round: it is the same for all that are ours."""
    if pair.contender.name == "sync":
        for name, value in imports.measure(max(int(7 * scale), 1)).items():
            yield Figure(name, value)


def _stream(
    pair: Pair, names: tuple[str, str], kind: str, streams: int, size: int
) -> Iterator[Figure]:
    size = max(size // streams, 1)
    cost = Cost(pair)
    seconds = pair.client.do("stream", kind=kind, streams=streams, bytes=size)["seconds"]
    moved = size * streams
    yield Figure(names[0], moved * 8 / seconds / 1e9)
    yield Figure(names[1], cost.seconds() / (moved * (2 if kind == "b" else 1) / 1e9))


def stream(pair: Pair, scale: float) -> Iterator[Figure]:
    """One stream each way and both ways."""
    size = int(192 * MIB * scale)
    for way in ("up", "down", "both"):
        yield from _stream(pair, (f"stream_{way}", f"stream_{way}_cpu"), way[0], 1, size)


def streams(pair: Pair, scale: float) -> Iterator[Figure]:
    """Several streams, sent by the dialing end."""
    for count in (8, 64):
        names = (f"streams_{count}", f"streams_{count}_cpu")
        yield from _stream(pair, names, "u", count, int(192 * MIB * scale))


def _round_trips(pair: Pair, size: int, count: int) -> Iterator[Figure]:
    cost = Cost(pair)
    answer = pair.client.do("round_trip", size=size, count=count)
    for name in ("p50", "p99", "p999"):
        yield Figure(f"rtt_{size}_{name}", answer[name])
    yield Figure(f"rtt_{size}_cpu", cost.seconds() / count * 1e6)


def round_trip(pair: Pair, scale: float) -> Iterator[Figure]:
    """Echo, one message at a time."""
    for size in (64, 4096):
        yield from _round_trips(pair, size, int(4000 * scale))


def sizes(pair: Pair, scale: float) -> Iterator[Figure]:
    """Echo, how it grows with the message."""
    for size in sorted(set(ROUND_TRIP_SIZES) - {64, 4096}):
        yield from _round_trips(pair, size, int(1000 * scale))


def connect(pair: Pair, scale: float) -> Iterator[Figure]:
    """Connections that are made, echo a byte, and end."""
    for workers in WORKERS:
        count = int((800 if workers == 1 else 3200) * scale)  # Go makes 5,000 a second with 8
        cost = Cost(pair)
        seconds = pair.client.do("connect", count=count, workers=workers)["seconds"]
        yield Figure(f"connect_{workers}", count / seconds)
        yield Figure(f"connect_{workers}_cpu", cost.seconds() / count * 1e3)


def http(pair: Pair, scale: float) -> Iterator[Figure]:
    """Requests to uvicorn, or to Go's net/http."""
    if pair.contender.server.transport == "libtailscale":
        return  # its listener is no socket
    pair.server.do("http_on")
    pair.client.do("http", count=8, workers=8, keep=True, path="/")  # until it has begun
    for name in HTTP:
        if "who" in name and (pair.contender.server.face == "uvloop" or not _knows(pair)):
            continue  # uvicorn on uvloop is not told who the peer is
        keep = "close" not in name
        count = int((2000 if keep else 600) * scale)
        path = "/who" if "who" in name else "/"
        words = {"count": count, "workers": 8, "keep": keep, "path": path}
        yield Figure(f"http_{name}", count / pair.client.do("http", **words)["seconds"])


def _knows(pair: Pair) -> bool:
    return pair.contender.server.transport not in ("raw", "serve", "libtailscale")


def whois(pair: Pair, scale: float) -> Iterator[Figure]:
    """Ask who the other end is."""
    if pair.contender.client.transport not in ("raw", "socks", "libtailscale"):
        answer = pair.client.do("whois", count=int(2000 * scale))
        yield Figure("whois_us", answer["us"])


def _held(pair: Pair, name: str, count: int) -> Iterator[Figure]:
    before = dict(_ends(pair))
    seconds = pair.client.do("hold", count=count, workers=8)["seconds"]
    yield Figure(f"held_{name}_rate", count / seconds)
    time.sleep(1.0)  # for what was used to open them to be given back
    for end, usage in _ends(pair):
        grown = (usage.rss - before[end].rss) * 1024 / count
        yield Figure(f"held_{name}_kib_{end}", grown)
        yield Figure(f"held_{name}_threads_{end}", usage.threads)
    answer = pair.client.do("round_trip", size=64, count=500)
    yield Figure(f"held_{name}_rtt", answer["p50"])
    release(pair)


def release(pair: Pair) -> Answers:
    """Close what is held, at both ends."""
    answer = pair.client.do("release")
    pair.server.do("release")
    return answer


def held(pair: Pair, scale: float) -> Iterator[Figure]:
    """1,000 connections that do nothing. Run before the load: memory that is there is reused."""
    del scale
    yield from _held(pair, "1000", 1000)


def held_many(pair: Pair, scale: float) -> Iterator[Figure]:
    """10,000 connections that do nothing, or as many as files may be open: ours take two each."""
    del scale
    yield from _held(pair, "many", min(10000, (machine.open_files() - 500) // 2))


def peers(pair: Pair, scale: float) -> Iterator[Figure]:
    """A tailnet of 1,000 more peers, which exist in the network map alone."""
    if not _knows(pair):
        return
    before = pair.client.usage().rss
    pair.net.control.add_fake_nodes(PEERS)
    time.sleep(3.0)
    yield Figure("peers_rss", pair.client.usage().rss - before)
    yield Figure("peers_rtt", pair.client.do("round_trip", size=64, count=int(1000 * scale))["p50"])
    count = int(400 * scale)
    seconds = pair.client.do("connect", count=count, workers=1)["seconds"]
    yield Figure("peers_connect", count / seconds)
    yield Figure("peers_whois", pair.client.do("whois", count=int(500 * scale))["us"])


def memory(pair: Pair, scale: float) -> Iterator[Figure]:
    """What is held after the load."""
    del scale
    for end, usage in _ends(pair):
        yield Figure(f"rss_load_{end}", usage.rss)


def settle(pair: Pair, scale: float) -> Iterator[Figure]:
    """What is held some time after."""
    del scale
    time.sleep(SETTLE)
    for end, usage in _ends(pair):
        yield Figure(f"rss_settled_{end}", usage.rss)


def close(pair: Pair, scale: float) -> Iterator[Figure]:
    """Leave, right after all that. Run by itself, after all else."""
    del scale
    for end, process in (("client", pair.client), ("server", pair.server)):
        if getattr(pair.contender, end).transport in ("raw", "serve", "socks", "libtailscale"):
            continue  # there is nothing to leave; or a close that hangs, as tsnet's does
        yield Figure(f"close_{end}_ms", process.do("close")["seconds"] * 1e3)


Phase = Callable[[Pair, float], Iterator[Figure]]

# In this order; `start` and `close` frame every run.
PHASES: dict[str, Phase] = {
    "imports": importing,
    "held": held,
    "sizes": sizes,  # before what leaves connections behind that still end
    "held_many": held_many,
    "stream": stream,
    "streams": streams,
    "round_trip": round_trip,
    "connect": connect,
    "http": http,
    "whois": whois,
    "memory": memory,
    "settle": settle,
    "peers": peers,
}
SHORT = ["imports", "held", "stream", "streams", "round_trip", "connect", "http", "whois", "memory"]


def run(pair: Pair, phases: list[str], scale: float) -> Iterator[Figure]:
    """Yield all figures of a contender that has just started."""
    yield from start(pair, scale)
    for name, phase in PHASES.items():
        if name in phases:
            yield from phase(pair, scale)
    yield from close(pair, scale)
