"""What came of a run: figures by contender and round, in a file of JSON lines and in memory.

The first line says what the machine was; every other one is a figure, or why there is none.

Read next: limits.py.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

Values = dict[int, float]  # by round


class Spread(NamedTuple):
    """The median of some values, the lowest, the highest, and how many there are."""

    median: float
    low: float
    high: float
    rounds: int


def spread(values: Iterable[float]) -> Spread | None:
    """Return it, or None where there is no value."""
    found = sorted(values)
    return Spread(statistics.median(found), found[0], found[-1], len(found)) if found else None


class Results:
    """All figures of a run.

    Attributes:
        about: What the machine was, and how the run was made.
        errors: What went wrong, in words.
        others: The share of the machine that others had, by (round, contender).
    """

    def __init__(self) -> None:
        self.about: dict[str, Any] = {}
        self.errors: list[str] = []
        self.others: dict[tuple[int, str], float] = {}
        self._values: dict[tuple[str, str], Values] = {}

    def take(self, line: dict[str, Any]) -> None:
        """Take in one line of the file."""
        if "about" in line:
            self.about = line["about"]
        elif "error" in line:
            self.errors.append("round {round}, {contender}: {error}".format(**line))
        elif "others" in line:
            self.others[line["round"], line["contender"]] = line["others"]
        else:
            values = self._values.setdefault((line["figure"], line["contender"]), {})
            values[line["round"]] = line["value"]

    def values(self, figure: str, contender: str) -> Values:
        """Return a figure of a contender, by round."""
        return self._values.get((figure, contender), {})

    def of(self, figure: str, contender: str) -> Spread | None:
        """Return a figure of a contender over all rounds."""
        return spread(self.values(figure, contender).values())

    def _pairs(
        self, figure: str, contender: str, against: str, other: str
    ) -> Iterator[tuple[float, float]]:
        theirs = self.values(other or figure, against)
        for number, value in self.values(figure, contender).items():
            if number in theirs:
                yield value, theirs[number]

    def ratio(
        self, figure: str, contender: str, against: str = "go", other: str = ""
    ) -> Spread | None:
        """Return a figure over that of another contender in the same round, over all rounds.

        Args:
            figure: Its name.
            contender: Whose.
            against: Over whose.
            other: Over which figure of theirs; the same one where "".
        """
        pairs = self._pairs(figure, contender, against, other)
        return spread(mine / theirs for mine, theirs in pairs if theirs)

    def difference(
        self, figure: str, contender: str, against: str = "go", other: str = ""
    ) -> Spread | None:
        """Return how much more a figure is; as ratio()."""
        pairs = self._pairs(figure, contender, against, other)
        return spread(mine - theirs for mine, theirs in pairs)

    @property
    def contenders(self) -> list[str]:
        """Who took part, in order of appearance."""
        return list(dict.fromkeys(contender for _, contender in self._values))

    @property
    def figures(self) -> list[str]:
        """What was measured."""
        return list(dict.fromkeys(figure for figure, _ in self._values))

    @property
    def rounds(self) -> int:
        """How many rounds there were."""
        return len({number for values in self._values.values() for number in values})


def load(*paths: Path) -> Results:
    """Read files of results: all their rounds, and what the first says of the run."""
    results = Results()
    first = 0
    for path in paths:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for line in lines:
            if "round" in line:
                line["round"] += first
            if "about" not in line or not results.about:
                results.take(line)
        first += 1 + max((line["round"] - first for line in lines if "round" in line), default=-1)
    return results
