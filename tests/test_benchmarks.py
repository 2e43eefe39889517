"""The benchmarks' arithmetic and report: no benchmark runs here, and nothing is timed."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NoReturn

import pytest

from benchmarks import contenders, imports, limits, report, svg
from benchmarks.contenders import CONTENDERS, DEFAULT
from benchmarks.figures import FIGURES
from benchmarks.limits import LIMITS, Limit, judge
from benchmarks.perf import OTHER, PYTHON, by_category, category, innermost, parse, ways
from benchmarks.phases import PHASES, SHORT
from benchmarks.results import Results, Spread, load
from benchmarks.services import answer_length, percentiles
from tailnet.testing._control import KNOBS


def results(*figures: tuple[str, str, list[float]], first: int = 0) -> Results:
    """Return results: figure, contender, and its value in each round."""
    made = Results()
    for figure, contender, values in figures:
        for number, value in enumerate(values, first):
            line = {"round": number, "contender": contender, "figure": figure, "value": value}
            made.take(line)
    return made


def test_rounds_are_compared_one_by_one() -> None:
    """The median is of the ratios in each round, not the ratio of the medians."""
    made = results(("connect_1", "sync", [5, 20, 90]), ("connect_1", "go", [10, 80, 100]))
    assert made.ratio("connect_1", "sync") == Spread(0.5, 0.25, 0.9, 3)
    assert made.difference("connect_1", "sync") == Spread(-10, -60, -5, 3)


def test_a_round_that_one_lacks_is_left_out() -> None:
    """Only rounds count that both have, and a figure that nobody has is no spread."""
    made = results(("connect_1", "sync", [5, 20, 90]), ("connect_1", "go", [10]))
    assert made.ratio("connect_1", "sync") == Spread(0.5, 0.5, 0.5, 1)
    assert made.ratio("connect_8", "sync") is None
    assert made.of("connect_8", "sync") is None


@pytest.mark.parametrize(
    ("limit", "mine", "theirs", "holds"),
    [
        (Limit("connect_1", 0.75), 80, 100, True),
        (Limit("connect_1", 0.75), 70, 100, False),
        (Limit("rtt_64_p50", 1.4), 130, 100, True),
        (Limit("rtt_64_p50", 1.4), 150, 100, False),
        (Limit("rss_idle_client", 25, "difference"), 50, 30, True),
        (Limit("rss_idle_client", 25, "difference"), 60, 30, False),
        (Limit("whois_us", 60, "value"), 59, 1, True),
        (Limit("whois_us", 60, "value"), 61, 1, False),
    ],
)
def test_a_limit_is_from_the_side_where_less_is_worse(
    limit: Limit, mine: float, theirs: float, holds: bool
) -> None:
    """Rates have a lowest ratio, times and memory a highest one."""
    made = results((limit.figure, "sync", [mine]), (limit.figure, "go", [theirs]))
    assert judge(limit, made).holds is holds


def test_memory_that_stays_is_compared_with_the_same_node_when_idle() -> None:
    """What is held after the load is set against what the same contender held before."""
    limit = next(each for each in LIMITS if each.figure == "rss_settled_client")
    made = results(("rss_settled_client", "sync", [100]), ("rss_idle_client", "sync", [50]))
    assert judge(limit, made).measured == Spread(50, 50, 50, 1)


def test_ends_are_kept_from_calling_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the offline tailnet sets to keep Tailscale's code in reaches every process."""
    seen: list[dict[str, str]] = []

    def end(command: list[str], about: str, env: dict[str, str]) -> NoReturn:
        seen.append(env)
        raise contenders.EndError(f"{about}: {command}")

    monkeypatch.setattr(contenders, "End", end)
    for name in KNOBS:
        monkeypatch.delenv(name, raising=False)
    pair = contenders.Pair(CONTENDERS["sync"], environ={"GOGC": "50"})
    with pytest.raises(contenders.EndError), pair:
        pass
    assert {**KNOBS, "GOGC": "50"}.items() <= seen[0].items()


def test_our_import_is_compared_with_pydantics_own() -> None:
    """What counts is how much longer it takes than pydantic, in the same round."""
    limit = next(each for each in LIMITS if each.figure == "import_ms")
    made = results(("import_ms", "sync", [130, 200]), ("import_pydantic_ms", "sync", [100, 120]))
    assert judge(limit, made).measured == Spread(55, 30, 80, 2)
    assert judge(limit, made).holds is True
    assert set(imports.PROGRAMS) <= set(FIGURES)


def test_verdicts_say_how_sure_they_are() -> None:
    """Few rounds do not decide, an aim that is missed is named, and nothing is not a yes."""
    limit = Limit("connect_1", 0.75, aim=0.85)
    assert judge(limit, Results()).words == "not measured"
    few = results(("connect_1", "sync", [80]), ("connect_1", "go", [100]))
    assert judge(limit, few).words == "yes, not the aim (rounds: 1)"
    made = results(("connect_1", "sync", [90] * 7), ("connect_1", "go", [100] * 7))
    assert judge(limit, made).words == "yes"
    made = results(("connect_1", "sync", [10] * 7), ("connect_1", "go", [100] * 7))
    assert judge(limit, made).words == "NO"


def test_the_sidecar_is_judged_on_all_that_is_there_by_hand() -> None:
    """Every figure that both have is a limit, and no other."""
    made = results(
        ("connect_1", "sidecar", [2]), ("connect_1", "by-hand", [1]), ("whois_us", "sidecar", [1])
    )
    assert [limit.figure for limit in limits.against_by_hand(made)] == ["connect_1"]


def test_what_is_named_is_there() -> None:
    """Limits, plots and defaults name figures, contenders and phases that exist."""
    for limit in LIMITS:
        assert limit.figure in FIGURES
        assert not limit.other or limit.other in FIGURES
        assert {limit.contender, limit.against} <= set(CONTENDERS)
    assert set(report.PLOTS) <= set(FIGURES)
    assert set(DEFAULT) <= set(CONTENDERS)
    assert set(SHORT) <= set(PHASES)


def test_titles_tell_figures_apart() -> None:
    """No two figures have one title: a table would not say which is which."""
    titles = [meaning.title for meaning in FIGURES.values()]
    assert sorted(titles) == sorted(set(titles))


def a_run() -> list[dict[str, object]]:
    """Return the lines of a run."""
    lines: list[dict[str, object]] = [{"about": {"commit": "abc", "rounds": 2}}]
    for number in (0, 1):
        for name, value in (("go", 100.0), ("sync", 90.0 + 2 * number)):
            line = {"round": number, "contender": name}
            lines.append({**line, "figure": "connect_1", "value": value})
            lines.append({**line, "others": 0.2 * number})
    lines.append({"round": 1, "contender": "uvloop", "error": "it has ended"})
    return lines


def test_report(tmp_path: Path) -> None:
    """A report has the machine, the limits, the ratios, the figures, what failed, and plots."""
    path = tmp_path / "run.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in a_run()), "utf-8")
    report.write(load(path), path.with_suffix(".md"))
    text = path.with_suffix(".md").read_text("utf-8")
    assert "commit: abc" in text
    assert "| connections, 1 worker, /s | 100 (100-100) | 91 (90-92) |" in text
    assert "| connections, 1 worker (more is better) | 0.91 |" in text
    assert "| connections, 1 worker, over go | ≥ 0.75, aim 0.85 | 0.91 |" in text
    assert "round 1, uvloop: it has ended" in text
    assert "more than 5% in 2 of 4 turns" in text
    assert "![connections, 1 worker](run/connect_1.svg)" in text
    assert ET.fromstring((tmp_path / "run" / "connect_1.svg").read_text("utf-8")) is not None
    twice = load(path, path)
    assert twice.about == {"commit": "abc", "rounds": 2}
    assert twice.values("connect_1", "sync") == {0: 90.0, 1: 92.0, 2: 90.0, 3: 92.0}


def test_plot_escapes_and_scales() -> None:
    """A plot is XML whatever a title says, and the longest bar ends within it."""
    bars = [svg.Bar("a<b", Spread(2, 1, 4, 3), "x&y"), svg.Bar("go", Spread(0, 0, 0, 1))]
    drawn = ET.fromstring(svg.plot("<&>", bars))
    rects = drawn.findall("{http://www.w3.org/2000/svg}rect")
    widths = [float(rect.attrib["width"]) for rect in rects]
    assert widths[0] == (svg.WIDTH - svg.LABEL - svg.VALUE) / 2
    assert widths[1] == 1


def test_a_document_takes_a_report_in() -> None:
    """What is between the marks is replaced, the rest stays; without marks nothing is written."""
    before = f"a\n{report.BEGIN}old\n{report.END}b\n"
    assert report.replace(before, "new") == f"a\n{report.BEGIN}\nnew\n{report.END}b\n"
    with pytest.raises(SystemExit):
        report.replace("a\n", "new")


def test_percentiles() -> None:
    """Percentiles are values that were measured, in microseconds."""
    found = percentiles([number / 1e6 for number in range(1001)])
    assert {name: round(value) for name, value in found.items()} == {
        "p50": 500,
        "p99": 990,
        "p999": 999,
    }


def test_length_of_an_http_answer() -> None:
    """The length is known once the head is complete, and an error is one."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    assert answer_length(head[:-1]) == 0
    assert answer_length(head) == len(head) + 5
    with pytest.raises(RuntimeError, match="403"):
        answer_length(b"HTTP/1.1 403 Forbidden\r\n\r\n")


SCRIPT = """\
 100 2000000
\tffffffff8 finish_task_switch.isra.0 ([kernel.kallsyms])
\tffffffff9 do_futex ([kernel.kallsyms])
\t    7f123 runtime.futex.abi0 (/x/libtailnet.so)

 200 1000000
\t    7f124 runtime.memmove (/x/libtailnet.so)
\t    7f125 tailnet/internal/bridge.(*Conn).outward (/x/libtailnet.so)

 200 3000000
\t    7f126 _PyEval_EvalFrameDefault (/y/libpython3.11.so.1.0)

 200 1000000
\t    7f127 [unknown] ([unknown])
"""


def test_samples_of_perf() -> None:
    """A sample counts for the innermost frame that means something."""
    samples = list(parse(SCRIPT))
    assert [sample.pid for sample in samples] == [100, 200, 200, 200]
    spent = {what: round(seconds * 1e3) for what, seconds in by_category(samples).items()}
    assert spent == {
        "threads that wait and wake (futex)": 2,
        "tailnet: pump and operations": 1,
        PYTHON: 3,
        OTHER: 1,
    }
    assert round(innermost(samples)["runtime.memmove (libtailnet.so)"] * 1e3) == 1
    futex = ways(samples, "threads that wait and wake (futex)")
    assert list(futex) == ["do_futex < runtime.futex.abi0"]


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        ("unix_stream_sendmsg ([kernel.kallsyms])", "unix sockets"),
        ("udp_sendmsg ([kernel.kallsyms])", "UDP"),
        ("do_epoll_wait ([kernel.kallsyms])", "waiting for descriptors (epoll, poll)"),
        ("runtime.findRunnable (bench)", "Go: scheduler"),
        ("runtime.mallocgcSmallNoscan (bench)", "Go: memory"),
        ("main.tailnet_dial (libtailnet.so)", "tailnet: pump and operations"),
        ("main.echo (bench)", "the program in Go"),
        ("golang.org/x/crypto/chacha20poly1305.(*x).Seal (bench)", "encryption"),
    ],
)
def test_what_a_function_is_for(frame: str, what: str) -> None:
    """Functions of each kind are known."""
    assert category([frame]) == what
