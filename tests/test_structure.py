"""The shape of the code: which package may import which, and how long a module is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tailnet

ROOT = Path(__file__).parent.parent
INTERNAL = ROOT / "go/internal"

# From the top floor to the ground; go/doc.go says the same.
FLOORS = [
    {"node"},
    {"embedded", "sidecar"},
    {"session"},
    {"state"},
    {"config"},
    {"logs", "strict"},
    {"bridge", "proxied"},
    {"fault"},
]
# Programs of their own, and the offline tailnet, which nothing of a node imports.
APART = {"bench", "flood", "testcontrol"}

MODULES = sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("go/**/*.go")])
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


def python_imports() -> dict[str, set[str]]:
    """Return which modules of the package each one imports, also in functions and for checkers."""
    source = ROOT / "src/tailnet"
    names = {
        path: ".".join(path.relative_to(source.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        )
        for path in source.glob("**/*.py")
    }
    modules = {*names.values(), "tailnet._native"}
    graph: dict[str, set[str]] = {}
    for path, name in names.items():
        package = name if path.stem == "__init__" else name.rpartition(".")[0]
        found = graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
            for each in node.names:
                full = f"{base}.{each.name}"
                found |= {full if full in modules else base} & modules - {name}
    return graph


def test_no_python_module_imports_in_a_circle() -> None:
    """Nor inside functions, nor for type checkers: each module can be read after those it needs."""
    graph = python_imports()
    while leaves := {name for name, needs in graph.items() if not needs & graph.keys()}:
        for name in leaves:
            del graph[name]
    assert not graph


def texts() -> dict[str, str]:
    """Return the package's modules by their path."""
    source = ROOT / "src/tailnet"
    return {
        str(path.relative_to(source)): path.read_text("utf-8") for path in source.glob("**/*.py")
    }


def test_only_public_names_are_importable() -> None:
    """Whatever has no underscore in `tailnet` is in its __all__, or a public module."""
    program = "import tailnet; print(*(n for n in dir(tailnet) if not n.startswith('_')))"
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    public = {"config", "errors", "models", "retry"}
    assert set(out.stdout.split()) <= {*tailnet.__all__, *public}


def test_the_settings_of_tools_name_files_that_there_are() -> None:
    """Each path in pyproject.toml is that of a file or a directory."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    paths = re.findall(r'"((?:src|tests|tools|docs|benchmarks|examples)/[\w./*]+)"', text)
    assert paths
    assert [path for path in paths if not list(ROOT.glob(path))] == []
