"""The shape of the code: which package may import which, and how long a module is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
INTERNAL = ROOT / "go/internal"

# From the top floor to the ground; go/doc.go says the same.
FLOORS = [
    {"node"},
    {"embedded", "sidecar"},
    {"session", "state"},
    {"config"},
    {"logs", "strict"},
    {"bridge", "proxied"},
    {"fault"},
]
# Programs of their own, and the offline tailnet, which nothing of a node imports.
APART = {"bench", "flood", "testcontrol", "tsnode"}

MODULES = sorted(ROOT.glob("go/**/*.go"))
LONGEST = 500


def imports(package: str) -> set[str]:
    """Return which packages of ours a Go package imports, its tests included."""
    texts = [path.read_text("utf-8") for path in (INTERNAL / package).glob("*.go")]
    return set(re.findall(r'^\t(?:\w+ )?"tailnet/internal/(\w+)"$', "\n".join(texts), re.MULTILINE))


def test_no_go_package_imports_upward() -> None:
    """Each imports packages of lower floors only, and every package has a floor."""
    floor = {package: n for n, level in enumerate(FLOORS) for package in level}
    packages = {path.parent.name for path in INTERNAL.glob("*/*.go")}
    assert packages - APART == set(floor)
    for package, at in floor.items():
        assert {other for other in imports(package) if floor.get(other, -1) <= at} == set(), package


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_short(module: Path) -> None:
    """A module of more than 500 lines would hold two subjects."""
    assert len(module.read_text("utf-8").splitlines()) <= LONGEST
