"""Measure tailnet beside what else there is: `make bench`, or `python -m benchmarks`.

Each round every contender has its turn, A B A B: two fresh processes on a fresh offline tailnet do
the same work. So a drift of the machine hits all alike, and what counts is the ratio in a round.
Writes JSON lines and a report with plots, and prints each limit beside what was measured.

    python -m benchmarks                                        what `make bench` does, ten minutes
    python -m benchmarks --rounds 7 --phases all                everything: an hour
    python -m benchmarks -c go sync --phases stream --scale .3  a quick look
    python -m benchmarks.profiles                               where the time goes

It needs a machine that does nothing else, and says when it was not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import IO, Any

import build_go

from . import machine
from .contenders import CONTENDERS, DEFAULT, Contender, EndError, Pair, build
from .figures import FIGURES
from .limits import all_verdicts, table
from .phases import PHASES, SHORT, run
from .report import write
from .results import Results

RESULTS = build_go.ROOT / "build" / "benchmarks"


def options() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-c", "--contenders", nargs="+", choices=CONTENDERS, default=DEFAULT)
    parser.add_argument("--phases", nargs="+", choices=[*PHASES, "all"], default=SHORT)
    parser.add_argument("--scale", type=float, default=1.0, help="of the work in each phase")
    parser.add_argument("--busy", action="store_true", help="run although the machine is not idle")
    parser.add_argument("-o", "--output", type=Path, help="the JSON lines; the report goes beside")
    return parser.parse_args()


class Recorder:
    """Keeps every line in the file and in the results, and shows it."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.results = Results()

    def note(self, **line: Any) -> None:
        """Record a line."""
        print(json.dumps(line), file=self._file, flush=True)
        self.results.take(line)

    def turn(self, number: int, contender: Contender, phases: list[str], scale: float) -> None:
        """Let a contender have its turn. What fails is recorded, and the next has its turn."""
        where = {"round": number, "contender": contender.name}
        watch = machine.Watch()
        begun = time.monotonic()
        try:
            with Pair(contender) as pair:
                for figure in run(pair, phases, scale):
                    self.note(**where, figure=figure.name, value=round(figure.value, 4))
        except EndError as error:
            self.note(**where, error=str(error))
            print(f"  {error}", file=sys.stderr)
        share = watch.others()
        self.note(**where, others=round(share, 3))
        took = time.monotonic() - begun
        busy = f", others had {share:.0%}" if share > machine.BUSY else ""
        print(f"round {number + 1}, {contender.name}: {took:.0f} s{busy}", file=sys.stderr)


def brief(results: Results) -> str:
    """Return the medians as lines of text, with the ratio to Go."""
    lines = []
    for figure in results.figures:
        meaning = FIGURES[figure]
        cells = []
        for name in results.contenders:
            if found := results.of(figure, name):
                ratio = results.ratio(figure, name)
                over = f" ({ratio.median:.2f})" if ratio and name != "go" else ""
                cells.append(f"{name} {found.median:,.{meaning.digits}f}{over}")
        lines.append(f"{meaning.title} [{meaning.unit}]: " + "  ".join(cells))
    return "\n".join(lines)


def main() -> None:
    """Run the rounds, write the report, and print the limits."""
    args = options()
    phases = list(PHASES) if "all" in args.phases else args.phases
    build(args.contenders)
    files = machine.open_files()
    others = machine.idle_check()
    if others > machine.BUSY and not args.busy:
        raise SystemExit(
            f"this machine is not idle: others have {others:.0%} of its processors. Stop what else"
            " runs, or say --busy; the figures will then say little"
        )
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    output: Path = args.output or RESULTS / f"{stamp}.jsonl"
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", encoding="utf-8") as file:
        recorder = Recorder(file)
        about = {**machine.describe(), "open_files": files, "busy_before": round(others, 3)}
        about.update(rounds=args.rounds, scale=args.scale, phases=", ".join(phases))
        recorder.note(about=about)
        try:
            for number in range(args.rounds):
                for name in args.contenders:
                    recorder.turn(number, CONTENDERS[name], phases, args.scale)
        except KeyboardInterrupt:
            print("interrupted: this is the report of what there is", file=sys.stderr)
    results = recorder.results
    write(results, output.with_suffix(".md"))
    print("median; in brackets, over Go in the same round\n")
    print(brief(results), "\n")
    print("\n".join(table(all_verdicts(results))))
    print(f"\n{output}\n{output.with_suffix('.md')}")


if __name__ == "__main__":
    main()
