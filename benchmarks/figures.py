"""What is measured, by name: in which unit, and whether more of it is better.

Read next: phases.py, which measures it.
"""

from __future__ import annotations

from typing import NamedTuple

ROUND_TRIP_SIZES = (64, 1024, 4096, 16384, 65536)
WORKERS = (1, 8, 64)
HTTP = {
    "keep": "connections kept",
    "close": "a connection each",
    "who": "connections kept, with whois",
    "who_close": "a connection each, with whois",
}
ENDS = {"client": "dialing end", "server": "accepting end"}
HELD = {"1000": "1,000", "many": "10,000"}  # or as many as files may be open: see phases.py
PEERS = 1000

SETTLE = 30.0  # seconds in which memory should come back


class Figure(NamedTuple):
    """Something measured: a name of FIGURES, and a number."""

    name: str
    value: float


class Meaning(NamedTuple):
    """What a figure is, in which unit, and whether more of it is better."""

    title: str
    unit: str
    more: bool = False
    digits: int = 1


def _table() -> dict[str, Meaning]:
    table = {
        "import_pydantic_ms": Meaning("import of pydantic, with one model", "ms"),
        "import_ms": Meaning("import of tailnet", "ms"),
        "load_ms": Meaning("loading the library, in the first up()", "ms"),
        "start_ms": Meaning("start to Running, dialing end", "ms"),
        "dial_ms": Meaning("first dial", "ms"),
        "byte_ms": Meaning("first dial to first byte", "ms"),
        "direct": Meaning("path is direct UDP (1) or not (0)", "", more=True, digits=0),
    }
    for way, words in (("up", "sent"), ("down", "received"), ("both", "both ways, each")):
        table[f"stream_{way}"] = Meaning(
            f"one stream, {words} by the dialing end", "Gbit/s", more=True, digits=2
        )
        table[f"stream_{way}_cpu"] = Meaning(
            f"one stream, {words}, CPU of both ends", "s/GB", digits=2
        )
    for streams in (8, 64):
        table[f"streams_{streams}"] = Meaning(
            f"{streams} streams, together", "Gbit/s", more=True, digits=2
        )
        table[f"streams_{streams}_cpu"] = Meaning(
            f"{streams} streams, CPU of both ends", "s/GB", digits=2
        )
    for size in ROUND_TRIP_SIZES:
        for name in ("p50", "p99", "p999"):
            tail = name.replace("999", "99.9")
            table[f"rtt_{size}_{name}"] = Meaning(f"round trip, {size} B, {tail}", "us", digits=0)
        table[f"rtt_{size}_cpu"] = Meaning(
            f"round trip, {size} B, CPU of both ends", "us", digits=0
        )
    for workers in WORKERS:
        what = f"connections, {workers} worker{'s' * (workers > 1)}"
        table[f"connect_{workers}"] = Meaning(what, "/s", more=True, digits=0)
        table[f"connect_{workers}_cpu"] = Meaning(f"{what}, CPU of both ends", "ms", digits=2)
    for name, what in HTTP.items():
        table[f"http_{name}"] = Meaning(
            f"HTTP requests, 8 workers, {what}", "/s", more=True, digits=0
        )
    table["whois_us"] = Meaning("whois, asked again and again", "us")
    for end, words in ENDS.items():
        table[f"rss_idle_{end}"] = Meaning(f"memory when idle, {words}", "MiB")
        table[f"rss_load_{end}"] = Meaning(f"memory after the load, {words}", "MiB")
        table[f"rss_settled_{end}"] = Meaning(f"memory {SETTLE:.0f} s after, {words}", "MiB")
        table[f"threads_idle_{end}"] = Meaning(f"threads when idle, {words}", "", digits=0)
        for count, number in HELD.items():
            what = f"{number} idle connections, {words}"
            table[f"held_{count}_kib_{end}"] = Meaning(f"memory of one of {what}", "KiB")
            table[f"held_{count}_threads_{end}"] = Meaning(f"threads with {what}", "", digits=0)
        table[f"close_{end}_ms"] = Meaning(f"close, {words}", "ms")
    for count, number in HELD.items():
        table[f"held_{count}_rate"] = Meaning(
            f"opening {number} that stay, 8 workers", "/s", more=True, digits=0
        )
        table[f"held_{count}_rtt"] = Meaning(f"round trip, 64 B, p50, beside {number} idle", "us")
    table["peers_rss"] = Meaning(f"memory that {PEERS:,} more peers take, dialing end", "MiB")
    table["peers_rtt"] = Meaning(
        f"round trip, 64 B, p50, with {PEERS:,} more peers", "us", digits=0
    )
    table["peers_connect"] = Meaning(
        f"connections, 1 worker, with {PEERS:,} more peers", "/s", more=True, digits=0
    )
    table["peers_whois"] = Meaning(f"whois with {PEERS:,} more peers", "us")
    return table


FIGURES = _table()
