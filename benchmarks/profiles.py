"""Where the time goes: `python -m benchmarks.profiles` writes one text for each case.

`perf` samples both ends, everything in them: Go, CPython and the kernel. So that it knows Go's
functions, the library and the Go end are built once more, with their symbols: LD_LIBRARY_PATH puts
that library before the one beside the extension, and nothing of it ships. Where `py-spy` is
installed it says which lines of Python that was, and Go's own profiler (pprof) is asked for the Go
end.

    python -m benchmarks.profiles --contenders go sync --cases stream connect

Texts are kept in benchmarks/profiles/; what they say is in docs/performance.md. perf must be
allowed to watch the machine: as root, or with kernel.perf_event_paranoid at 0 or less.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import build_go

from . import contenders, machine
from .contenders import CONTENDERS, Pair
from .perf import Sample, Seconds, by_category, innermost, parse, ways

HERE = Path(__file__).parent / "profiles"
SYMBOLS = build_go.ROOT / "build" / "profiling"

FREQUENCY = 997  # samples a second: a prime, so that nothing periodic hides between them
TOP = 20  # functions and lines that are listed
MOST, SHOWN = 10, 6  # categories, and ways to each
WIDE = 300  # letters in a line


class Case(NamedTuple):
    """What the ends do while they are watched: a command, and what it is counted by."""

    about: str
    unit: str  # of the time that one operation takes
    scale: float  # such units in a second
    operations: float
    command: dict[str, Any]


CASES = {
    "stream": Case(
        "one stream, sent by the dialing end",
        "s per GB",
        1.0,
        0.384,
        {"do": "stream", "kind": "u", "streams": 1, "bytes": 384_000_000},
    ),
    "round_trip": Case(
        "round trips of 64 B", "us each", 1e6, 8000, {"do": "round_trip", "size": 64, "count": 8000}
    ),
    "connect": Case(
        "connections, 1 worker",
        "us each",
        1e6,
        2000,
        {"do": "connect", "count": 2000, "workers": 1},
    ),
    "connect_8": Case(
        "connections, 8 workers",
        "us each",
        1e6,
        3000,
        {"do": "connect", "count": 3000, "workers": 8},
    ),
}


class Profile(NamedTuple):
    """What was seen of a contender in a case."""

    took: float  # seconds
    samples: dict[str, list[Sample]]  # by end
    python: dict[str, list[str]]  # py-spy's lines by end
    pprof: str


def build_with_symbols() -> None:
    """Build the library and the Go end with the symbols that `-s -w` leaves out."""
    go = build_go.find_go()
    SYMBOLS.mkdir(parents=True, exist_ok=True)
    library = build_go.library_command(go.path, SYMBOLS / build_go.LIBRARY, symbols=True)
    program = build_go.program_command(go.path, "./internal/bench", SYMBOLS / "bench")
    for command in (library, [word.replace("-s -w", "") for word in program]):
        build_go.run_go(go, command, "build with symbols")


@contextlib.contextmanager
def watched(command: list[str]) -> Iterator[None]:
    """Run a sampler meanwhile."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sampler:
        try:
            yield
        finally:
            sampler.send_signal(signal.SIGINT)
            sampler.wait(30)


def profile(name: str, case: Case, directory: Path) -> Profile:
    """Watch a contender at work."""
    words = dict(case.command)
    do = words.pop("do")
    spies: dict[str, list[str]] = {}
    with Pair(CONTENDERS[name], SYMBOLS) as pair:
        ends = {"client": pair.client, "server": pair.server}
        families = {end: machine.family([each.pid, *each.daemons]) for end, each in ends.items()}
        pair.client.do("round_trip", size=64, count=500)
        data = directory / "perf.data"
        # The whole machine, because with `-p` a thread that lives for one connection is missed.
        record = ["perf", "record", "-q", "-F", str(FREQUENCY), "-g", "-o", str(data), "-a"]
        with watched(record):
            begun = time.perf_counter()
            pair.client.do(do, **words)
            took = time.perf_counter() - begun
        script = ["perf", "script", "-i", str(data), "-F", "pid,period,ip,sym,dso"]
        text = subprocess.run(script, capture_output=True, text=True, check=True).stdout
        taken = list(parse(text))
        samples = {
            end: [sample for sample in taken if sample.pid in pids]
            for end, pids in families.items()
        }
        if shutil.which("py-spy"):  # by itself: it stops the process to look
            spies = spied(pair, do, words, directory)
        report = pprof(pair, do, words, directory)
        pair.client.do("close")
    return Profile(took, samples, spies, report)


def spied(pair: Pair, do: str, words: dict[str, Any], directory: Path) -> dict[str, list[str]]:
    """Return which lines of Python take the time, by end."""
    found = {}
    for end, process in (("client", pair.client), ("server", pair.server)):
        if getattr(pair.contender, end).face == "go":
            continue
        output = directory / f"{end}.txt"
        spy = ["py-spy", "record", "-r", "1000", "-d", "60", "-f", "raw", "--gil"]
        with watched([*spy, "-o", str(output), "-p", str(process.pid)]):
            pair.client.do(do, **words)
        lines: Seconds = {}
        for line in output.read_text("utf-8").splitlines() if output.exists() else []:
            stack, _, count = line.rpartition(" ")
            innermost_line = stack.rpartition(";")[2]
            lines[innermost_line] = lines.get(innermost_line, 0) + float(count)
        total = sum(lines.values())
        best = sorted(lines.items(), key=lambda item: -item[1])[:TOP]
        found[end] = [f"{count:6.0f} of {total:.0f}  {line}" for line, count in best]
    return found


def pprof(pair: Pair, do: str, words: dict[str, Any], directory: Path) -> str:
    """Return what pprof says of the dialing end, where that is Go."""
    if pair.contender.client.face != "go":
        return ""
    file = directory / "cpu.pprof"
    pair.client.do("profile", file=str(file))
    pair.client.do(do, **words)
    pair.client.do("profile")
    go = build_go.find_go()
    command = [
        go.path,
        "tool",
        "pprof",
        "-top",
        "-cum",
        f"-nodecount={TOP}",
        str(contenders.program()),
    ]
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    return done.stdout


def totals(case: Case, profiles: dict[str, Profile]) -> list[str]:
    """Return what the CPU was spent on, by contender, and what each has more than the first."""
    names = list(profiles)
    spent = {}
    for name, seen in profiles.items():
        spent[name] = by_category([each for one in seen.samples.values() for each in one])
    found = {what for each in spent.values() for what in each}
    factor = case.scale / case.operations

    def row(what: str, values: list[float]) -> str:
        cells = "".join(f"{value * factor:12.2f}" for value in values)
        more = "".join(f"{(value - values[0]) * factor:+12.2f}" for value in values[1:])
        return f"{what:40}{cells}{more}"

    head = f"{'CPU of both ends, ' + case.unit:40}" + "".join(f"{name:>12}" for name in names)
    head += "".join(f"{'+' + name:>12}" for name in names[1:])
    lines = [head, row("all", [sum(spent[name].values()) for name in names])]
    order = sorted(found, key=lambda what: -max(spent[name].get(what, 0.0) for name in names))
    lines += [row(what, [spent[name].get(what, 0.0) for name in names]) for what in order]
    return lines


def top(title: str, seconds: Seconds, case: Case, count: int = TOP) -> list[str]:
    """Return what took most."""
    factor = case.scale / case.operations
    best = sorted(seconds.items(), key=lambda item: -item[1])[:count]
    return ["", title, *(f"{spent * factor:12.2f}  {what}" for what, spent in best)]


def text_of(case: Case, profiles: dict[str, Profile]) -> str:
    """Return the text of a case."""
    about = machine.describe()
    lines = [
        f"{case.about}; {about['processors']}; commit {about['commit']}; {about['time']}",
        f"perf at {FREQUENCY} Hz, cpu-clock; what was for what: benchmarks/perf.py",
        "",
        *totals(case, profiles),
    ]
    for name, seen in profiles.items():
        lines += ["", "=" * 100, f"{name}: {CONTENDERS[name].about}; watched for {seen.took:.2f} s"]
        everything = [each for one in seen.samples.values() for each in one]
        found = by_category(everything)
        for what in sorted(found, key=lambda each: -found[each])[:MOST]:
            lines += top(f"{name}: {what}, {case.unit}", ways(everything, what), case, SHOWN)
        for end, samples in seen.samples.items():
            lines += top(f"{name}, {end}: by function, {case.unit}", innermost(samples), case)
        for end, python in seen.python.items():
            lines += ["", f"{name}, {end}: samples of lines that hold the GIL (py-spy)", *python]
        if seen.pprof:
            lines += ["", f"{name}, client: pprof", seen.pprof]
    return "\n".join(line.rstrip()[:WIDE] for line in lines) + "\n"


def main() -> None:
    """Write the profiles."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profiles", description=str(__doc__).split("\n", 1)[0]
    )
    parser.add_argument("-c", "--contenders", nargs="+", choices=CONTENDERS, default=["go", "sync"])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("-o", "--output", type=Path, default=HERE, help="the directory")
    args = parser.parse_args()
    if not shutil.which("perf"):
        raise SystemExit("there is no `perf` on PATH: `apt install linux-perf`")
    contenders.build(args.contenders)
    build_with_symbols()
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for case in args.cases:
            seen = {name: profile(name, CASES[case], Path(scratch)) for name in args.contenders}
            path = args.output / f"{case}.txt"
            path.write_text(text_of(CASES[case], seen), "utf-8")
            print("\n".join(totals(CASES[case], seen)), f"\n{path}\n", file=sys.stderr)


if __name__ == "__main__":
    main()
