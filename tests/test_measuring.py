"""What measures the tests: tools/mutate.py makes mutants, tools/covered.py reads what ran."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import build_go

sys.path.insert(0, str(build_go.ROOT / "tools"))
import covered
import mutate

PYTHON = b'''
if TYPE_CHECKING:
    import nothing
def f(x: int = 0) -> bool:
    """Say 1 + 1."""
    if x and not g(1):
        raise ValueError
    x.y = 5
    return x < 2
'''

GO = b"""
func f(x int) bool { // a == b
	if x == 0 && g("a != b") {
		h(x)
		s.field = 10
	}
	return !ok(x)
}
"""


def changed(source: bytes, start: int, end: int, new: str) -> str:
    """Return the line that a change is in, as it becomes."""
    text = (source[:start] + new.encode() + source[end:]).decode()
    return text[text.rfind("\n", 0, start) + 1 :].partition("\n")[0].strip()


def test_python_mutants() -> None:
    """Each change is of one operator, number, truth value or statement, and none of text."""
    found = [changed(PYTHON, *change) for change in mutate._python(PYTHON)]
    for change in mutate._python(PYTHON):
        ast.parse(PYTHON[: change[0]] + change[2].encode() + PYTHON[change[1] :])
    assert sorted(found) == sorted(
        [
            "def f(x: int = 1) -> bool:",
            "if (x or not g(1)):",
            "if x and (g(1)):",
            "if x and not g(2):",
            "pass",
            "pass",
            "return None",
            "return (x <= 2)",
            "return x < 3",
        ]
    )


def test_go_mutants() -> None:
    """So it is in Go, where comments and strings are left alone."""
    assert sorted(changed(GO, *change) for change in mutate._go(GO)) == sorted(
        [
            'if x != 0 && g("a != b") {',
            'if x == 0 || g("a != b") {',
            'if x == 1 && g("a != b") {',
            "",
            "",
            "return ok(x)",
        ]
    )


def test_every_module_has_its_tests() -> None:
    """Each file that is mutated has test modules, and those that the table names are there."""
    files = {mutant.file for mutant in mutate.mutants()}
    assert {"src/tailnet/_engine/ops.py", "go/exports.go", "go/internal/embedded/up.go"} <= files
    assert all(mutate.tests(file) for file in files)
    for names in mutate.TESTS.values():
        for name in names.split():
            assert (build_go.ROOT / "tests" / f"test_{name}.py").exists()


def test_a_profile_of_go(tmp_path: Path) -> None:
    """A block counts as run when it ran in any process; lines in a row are one span."""
    (tmp_path / "profile").write_text(
        "mode: atomic\n"
        "tailnet/internal/x/a.go:1.2,2.3 2 0\n"
        "tailnet/internal/x/a.go:3.2,4.3 1 0\n"
        "tailnet/internal/x/a.go:4.2,4.9 1 0\n"
        "tailnet/internal/x/a.go:1.2,2.3 2 7\n"
    )
    (file,) = covered.go(tmp_path / "profile")
    assert file == ("go/internal/x/a.go", 4, [3, 4])
    assert str(file).split() == ["go/internal/x/a.go", "4", "2", "50.0%", "3-4"]
