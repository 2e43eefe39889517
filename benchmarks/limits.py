"""What the figures should be: each limit, beside what was measured, and whether it holds.

A limit is on the median over the rounds, of a ratio or a difference within each round: between
runs, and even between rounds, the machine differs more than what is compared.

Read next: report.py.
"""

from __future__ import annotations

from typing import NamedTuple

from .figures import ENDS, FIGURES
from .results import Results, Spread

ROUNDS = 7  # fewer do not decide


class Limit(NamedTuple):
    """A bound on a figure of ours.

    Attributes:
        figure: Of FIGURES.
        bound: What it may be at most; at least, where more is better.
        how: "ratio" and "difference" are towards another contender in the same round; "value" is
            the figure itself.
        aim: What it should better be, or None.
        against: That contender.
        other: That contender's figure, where it is another.
        contender: Whose figure it is.
    """

    figure: str
    bound: float
    how: str = "ratio"
    aim: float | None = None
    against: str = "go"
    other: str = ""
    contender: str = "sync"

    @property
    def at_least(self) -> bool:
        """Whether the bound is from below."""
        return FIGURES[self.figure].more and self.how != "difference"


LIMITS = [
    Limit("stream_up", 0.95),
    Limit("stream_down", 0.95),
    Limit("stream_up_cpu", 1.1),
    Limit("stream_down_cpu", 1.1),
    Limit("rtt_64_p50", 1.4, aim=1.2),
    Limit("rtt_64_p99", 1.5),
    Limit("connect_1", 0.75, aim=0.85),
    Limit("connect_8", 0.6, aim=0.75),
    Limit("connect_8", 1.0, contender="asyncio", against="sync"),
    Limit("import_ms", 60, "difference", against="sync", other="import_pydantic_ms"),
    Limit("load_ms", 60, "value"),
    Limit("start_ms", 60, "difference"),
    *(Limit(f"rss_idle_{end}", 25, "difference") for end in ENDS),
    *(Limit(f"held_many_threads_{end}", 40, "value") for end in ENDS),
    *(Limit(f"held_many_kib_{end}", 8, "difference") for end in ENDS),
    *(Limit(f"held_1000_kib_{end}", 8, "difference") for end in ENDS),
    *(
        Limit(f"rss_settled_{end}", 60, "difference", against="sync", other=f"rss_idle_{end}")
        for end in ENDS
    ),
    Limit("whois_us", 20, "value"),  # the library's own limit: it is Python that keeps the answer
]


def against_by_hand(results: Results) -> list[Limit]:
    """Return what the sidecar must beat: every figure that a tailscaled by hand has too."""
    return [
        Limit(figure, 1.0, contender="sidecar", against="by-hand")
        for figure in results.figures
        if figure != "direct" and results.of(figure, "by-hand") and results.of(figure, "sidecar")
    ]


class Verdict(NamedTuple):
    """A limit, what was measured, and whether it holds: None where that cannot be said."""

    limit: Limit
    measured: Spread | None
    holds: bool | None

    @property
    def words(self) -> str:
        """Say whether it holds."""
        if self.measured is None or self.holds is None:
            return "not measured"
        few = "" if self.measured.rounds >= ROUNDS else f" (rounds: {self.measured.rounds})"
        if not self.holds:
            return "NO" + few
        aim = self.limit.aim
        return (
            "yes" if aim is None or within(self.limit, self.measured, aim) else "yes, not the aim"
        ) + few


def within(limit: Limit, measured: Spread, bound: float) -> bool:
    """Report whether the median keeps to a bound."""
    return measured.median >= bound if limit.at_least else measured.median <= bound


def judge(limit: Limit, results: Results) -> Verdict:
    """Compare a limit with what was measured."""
    if limit.how == "value":
        measured = results.of(limit.figure, limit.contender)
    else:
        compare = results.ratio if limit.how == "ratio" else results.difference
        measured = compare(limit.figure, limit.contender, limit.against, limit.other)
    return Verdict(limit, measured, within(limit, measured, limit.bound) if measured else None)


def title(limit: Limit) -> str:
    """Say what is limited."""
    words = FIGURES[limit.figure].title
    if limit.contender != "sync":
        words = f"{limit.contender}: {words}"
    if limit.how == "value":
        return words
    than = FIGURES[limit.other].title if limit.other else limit.against
    return f"{words}, {'over' if limit.how == 'ratio' else 'more than'} {than}"


def amount(limit: Limit, value: float) -> str:
    """Spell a value of a limit."""
    if limit.how == "ratio":
        return f"{value:.2f}"
    return f"{value:.1f} {FIGURES[limit.figure].unit}".rstrip()


def table(verdicts: list[Verdict]) -> list[str]:
    """Return the table of limits, in Markdown."""
    lines = [
        "| what | limit | measured | lowest to highest | holds |",
        "| --- | --- | --- | --- | --- |",
    ]
    for verdict in verdicts:
        limit, measured = verdict.limit, verdict.measured
        bound = f"{'≥' if limit.at_least else '≤'} {amount(limit, limit.bound)}"
        if limit.aim is not None:
            bound += f", aim {amount(limit, limit.aim)}"
        found = amount(limit, measured.median) if measured else ""
        reach = (
            f"{amount(limit, measured.low)} to {amount(limit, measured.high)}" if measured else ""
        )
        lines.append(f"| {title(limit)} | {bound} | {found} | {reach} | {verdict.words} |")
    return lines


def all_verdicts(results: Results) -> list[Verdict]:
    """Judge everything there is a limit for."""
    return [judge(limit, results) for limit in (*LIMITS, *against_by_hand(results))]
