"""The report of a run: Markdown with plots beside it. `python -m benchmarks.report run.jsonl`.

It says what the machine was, how the limits fare, and every figure with its spread and its ratio
to Go in the same round. Docs take it over between two marks; see `--into`.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from .contenders import CONTENDERS
from .figures import FIGURES
from .limits import all_verdicts, table
from .machine import BUSY
from .results import Results, Spread, load
from .svg import Bar, plot

BEGIN, END = "<!-- benchmarks -->\n", "<!-- end of benchmarks -->\n"

# What is worth a plot; raw loopback would make every other bar of the streams a stub.
PLOTS = [
    "stream_up",
    "stream_up_cpu",
    "streams_8",
    "rtt_64_p50",
    "rtt_64_p99",
    "connect_1",
    "connect_8",
    "http_keep",
    "start_ms",
    "rss_idle_client",
    "rss_load_client",
    "held_1000_kib_client",
    "held_1000_kib_server",
]
NOT_PLOTTED = {"raw", "go-raw"}


def number(value: float, digits: int) -> str:
    """Spell a number."""
    return f"{value:,.{digits}f}"


def cell(found: Spread | None, digits: int) -> str:
    """Spell a median and its spread."""
    if found is None:
        return ""
    if found.rounds == 1:
        return number(found.median, digits)
    return "{} ({}-{})".format(*(number(value, digits) for value in found[:3]))


def figures(results: Results) -> list[str]:
    """Return the table of all figures, in Markdown."""
    names = results.contenders
    lines = [
        "| median (lowest-highest) | " + " | ".join(names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for figure in results.figures:
        meaning = FIGURES[figure]
        what = meaning.title + (f", {meaning.unit}" if meaning.unit else "")
        cells = [cell(results.of(figure, name), meaning.digits) for name in names]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return lines


def ratios(results: Results) -> list[str]:
    """Return the table of ratios to Go in the same round, in Markdown."""
    names = [name for name in results.contenders if name != "go"]
    lines = [
        "| over Go, median of the rounds | " + " | ".join(names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for figure in results.figures:
        found = [results.ratio(figure, name) for name in names]
        if figure == "direct" or not any(found):
            continue
        meaning = FIGURES[figure]
        better = "more" if meaning.more else "less"
        cells = [f"{each.median:.2f}" if each else "" for each in found]
        lines.append(f"| {meaning.title} ({better} is better) | {' | '.join(cells)} |")
    return lines


def about(results: Results) -> list[str]:
    """Say what the machine was, who took part, and what disturbed the run."""
    names = {name: name if "." in name else name.replace("_", " ") for name in results.about}
    lines = [f"- {names[name]}: {value}" for name, value in results.about.items()]
    disturbed = {key: share for key, share in results.others.items() if share > BUSY}
    if results.others:
        worst = max(results.others.values())
        lines.append(
            f"- others had up to {worst:.0%} of the processors; more than {BUSY:.0%} in"
            f" {len(disturbed)} of {len(results.others)} turns"
        )
    lines += [f"- failed: {error}" for error in results.errors]
    lines += ["", "| contender | what it is |", "| --- | --- |"]
    lines += [f"| {name} | {CONTENDERS[name].about} |" for name in results.contenders]
    return lines


def markdown(results: Results, plots: list[str]) -> str:
    """Return the report."""
    lines = [
        "Two processes on one machine, an offline tailnet for each contender in turn, direct UDP.",
        "Go is built as the library is, with gVisor patched (`build_patches.py`).",
        "Only what was measured in the same round is compared.",
        "",
        *about(results),
        "",
        "### Limits",
        "",
        *table(all_verdicts(results)),
        "",
        "### Over Go in the same round",
        "",
        *ratios(results),
        "",
        "### All figures",
        "",
        *figures(results),
        "",
        *(f"![{FIGURES[Path(name).stem].title}]({name})" for name in plots),
    ]
    return "\n".join(lines).rstrip() + "\n"


def write_plots(results: Results, directory: Path) -> list[Path]:
    """Write the plots; return where they are."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for figure in PLOTS:
        bars = []
        for name in results.contenders:
            found = results.of(figure, name)
            if found and name not in NOT_PLOTTED:
                ratio = results.ratio(figure, name)
                note = f"{ratio.median:.2f} of Go" if ratio and name != "go" else ""
                bars.append(Bar(name, found, note))
        if bars:
            meaning = FIGURES[figure]
            words = meaning.title + (f", {meaning.unit}" if meaning.unit else "")
            words += " (more is better)" if meaning.more else " (less is better)"
            path = directory / f"{figure}.svg"
            path.write_text(plot(words, bars, digits=meaning.digits), "utf-8")
            written.append(path)
    return written


def replace(document: str, text: str) -> str:
    """Put a report between the marks of a document."""
    found = re.search(re.escape(BEGIN) + ".*?" + re.escape(END), document, re.DOTALL)
    if not found:
        raise SystemExit(f"the document has no {BEGIN.strip()} and {END.strip()}")
    return document[: found.start()] + BEGIN + "\n" + text + "\n" + END + document[found.end() :]


def write(results: Results, path: Path) -> None:
    """Write a report of its own, with its plots in a directory beside it."""
    plots = write_plots(results, path.with_suffix(""))
    names = [str(plot.relative_to(path.parent)) for plot in plots]
    path.write_text("# Benchmarks\n\n" + markdown(results, names), "utf-8")


def main() -> None:
    """Write the report of a run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=str(__doc__).split("\n", 1)[0]
    )
    words = "what `make bench` has written: a .jsonl, or several of one commit and machine"
    parser.add_argument("runs", type=Path, nargs="+", help=words)
    parser.add_argument("--into", type=Path, help="a document with the two marks")
    args = parser.parse_args()
    results = load(*args.runs)
    if args.into is None:
        path = args.runs[0].with_suffix(".md")
        write(results, path)
        print(path)
        return
    plots = write_plots(results, args.into.parent / "benchmarks")
    text = markdown(results, [f"benchmarks/{path.name}" for path in plots])
    args.into.write_text(replace(args.into.read_text("utf-8"), text), "utf-8")


if __name__ == "__main__":
    main()
