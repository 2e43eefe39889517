"""What settings change: `python -m benchmarks.tuning` prints a table for docs/performance.md.

One contender, ours with threads, under one setting after the other, in turn, as in __main__.py.
Each figure is the median of the ratios to the run of the same round with nothing set.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from .contenders import CONTENDERS, Pair, build
from .figures import FIGURES, Figure
from .phases import connect, memory, round_trip, start, stream


class Setting(NamedTuple):
    """A setting of the environment, or of the kernel (which takes root)."""

    environ: Mapping[str, str] = {}
    sysctl: Mapping[str, str] = {}


SETTINGS = {
    "nothing set": Setting(),
    "`GOMAXPROCS` = all": Setting({"GOMAXPROCS": str(os.cpu_count())}),
    "`GOGC=50`": Setting({"GOGC": "50"}),
    "`GOGC=400`": Setting({"GOGC": "400"}),
    "`TS_DEBUG_MTU=1420`": Setting({"TS_DEBUG_MTU": "1420"}),
    "`TS_DEBUG_MTU=8900`": Setting({"TS_DEBUG_MTU": "8900"}),
    "`net.core.wmem_max=212992`": Setting(sysctl={"net/core/wmem_max": "212992"}),
}
SHOWN = ("stream_up", "stream_up_cpu", "rtt_64_p50", "connect_1", "connect_8", "rss_load_client")


@contextlib.contextmanager
def applied(sysctl: Mapping[str, str]) -> Iterator[None]:
    """Set what the kernel has, and put it back."""
    files = {Path("/proc/sys", name): value for name, value in sysctl.items()}
    before = {file: file.read_text() for file in files}
    try:
        for file, value in files.items():
            file.write_text(value)
        yield
    finally:
        for file, value in before.items():
            file.write_text(value)


def measure(setting: Setting, scale: float) -> Iterator[Figure]:
    """Yield the figures of one turn."""
    with applied(setting.sysctl), Pair(CONTENDERS["sync"], environ=setting.environ) as pair:
        for phase in (start, stream, round_trip, connect, memory):
            yield from phase(pair, scale)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=0.5, help="of the work in each phase")
    args = parser.parse_args()
    build(["sync"])
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(args.rounds):
        print(f"round {number + 1}", file=sys.stderr)
        found = {name: dict(measure(each, args.scale)) for name, each in SETTINGS.items()}
        rounds.append(found)
    titles = [FIGURES[name].title for name in SHOWN]
    print("| | " + " | ".join(titles) + " |\n" + "| --- " * (len(SHOWN) + 1) + "|")
    base, *others = SETTINGS
    for name in others:
        ratios = [
            statistics.median([r[name][shown] / r[base][shown] for r in rounds]) for shown in SHOWN
        ]
        print(f"| {name} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")


if __name__ == "__main__":
    main()
