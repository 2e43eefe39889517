"""Print which statements no test reached, of Python and of Go, in one table; for `make coverage`.

python tools/covered.py build/coverage       what coverage.py and Go have left there
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class File(NamedTuple):
    """How many statements a file has, and the lines of those that did not run."""

    name: str
    statements: int
    missed: list[int]

    def __str__(self) -> str:
        spans: list[list[int]] = []
        for line in self.missed:
            if spans and line == spans[-1][1] + 1:
                spans[-1][1] = line
            else:
                spans.append([line, line])
        where = ", ".join(f"{a}-{b}" if a < b else str(a) for a, b in spans)
        return f"{row(self.name, self.statements, len(self.missed))}  {where}".rstrip()


def row(name: str, statements: int, missed: int) -> str:
    """Return a line of the table."""
    percent = 100 * (statements - missed) / max(1, statements)
    return f"{name:40} {statements:6} {missed:6} {percent:6.1f}%"


def python(directory: Path) -> Iterator[File]:
    """Yield the files of the package, of every process that ran."""
    command = [sys.executable, "-m", "coverage"]
    env_file = ["--data-file", str(directory / "python")]
    subprocess.run([*command, "combine", "-q", *env_file], cwd=ROOT, check=True)
    report = directory / "python.json"
    subprocess.run([*command, "json", "-q", *env_file, "-o", report], cwd=ROOT, check=True)
    for name, file in json.loads(report.read_text("utf-8"))["files"].items():
        yield File(name, file["summary"]["num_statements"], file["missing_lines"])


def go(profile: Path) -> Iterator[File]:
    """Yield the files of a profile, which has a line for each block: place, statements, times."""
    blocks: dict[str, dict[str, tuple[int, int]]] = {}
    for line in profile.read_text("utf-8").splitlines()[1:]:
        name, place, statements, times = re.fullmatch(r"(\S+):(\S+) (\d+) (\d+)", line).groups()  # type: ignore[union-attr]
        file = blocks.setdefault("go" + name.removeprefix("tailnet"), {})
        file[place] = int(statements), max(int(times), file.get(place, (0, 0))[1])
    for name, places in sorted(blocks.items()):
        missed = [
            int(place.partition(".")[0])
            for place, (statements, times) in places.items()
            if not times
            for _ in range(statements)
        ]
        yield File(name, sum(statements for statements, _ in places.values()), sorted(missed))


def main() -> None:
    """Print the table."""
    directory = Path(sys.argv[1])
    for title, files in (
        ("Python", [*python(directory)]),
        ("Go", [*go(directory / "go.profile")]),
    ):
        print(f"{title:40} {'statements, missed, reached':>21}  missed lines")
        print(*files, sep="\n")
        statements = sum(file.statements for file in files)
        print(row(f"all {title}", statements, sum(len(file.missed) for file in files)), "\n")


if __name__ == "__main__":
    main()
