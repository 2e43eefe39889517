"""What is public, what an import does, and which module may do what."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

import tailnet
from tailnet import (
    AsyncTailnet,
    AsyncTailnetHandle,
    AsyncWatch,
    Tailnet,
    TailnetConfig,
    TailnetHandle,
    Watch,
    config,
    errors,
    models,
    testing,
)

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "tailnet"
API = Path(__file__).parent / "typing" / "api.py"

MODULES: list[ModuleType] = [tailnet, testing, models, errors, config]
every_module = pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)

FACES: list[tuple[type, type]] = [
    (Tailnet, AsyncTailnet),
    (TailnetHandle, AsyncTailnetHandle),
    (Watch, AsyncWatch),
]
# What waits for nothing, and is no coroutine in either.
AT_ONCE: dict[type, set[str]] = {
    AsyncTailnet: set(),
    AsyncTailnetHandle: {"is_own", "watch"},
    AsyncWatch: {"close"},
}
faces = pytest.mark.parametrize(("sync", "asynchronous"), FACES, ids=lambda c: c.__name__)

CLASSES = sorted(
    {
        value
        for module in MODULES
        for name in module.__all__
        if inspect.isclass(value := getattr(module, name))
    },
    key=lambda cls: cls.__name__,
)
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)


def parsed(path: Path) -> ast.Module:
    """Parse a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def ours(cls: type) -> Iterator[type]:
    """Yield a class and those above it that are this library's."""
    yield from (c for c in cls.__mro__ if c.__module__.partition(".")[0] == "tailnet")


def methods(cls: type) -> dict[str, Any]:
    """Return the public methods and properties of a class, with those it has from ours above it."""
    return {
        name: value.__func__ if isinstance(value, classmethod | staticmethod) else value
        for above in reversed(list(ours(cls)))
        for name, value in vars(above).items()
        if not name.startswith("_")
        and isinstance(value, FunctionType | property | classmethod | staticmethod)
    }


# --- __all__ ---


@every_module
def test_all_is_sorted_and_importable(module: ModuleType) -> None:
    """Every name in __all__ is there, once and in order, and `import *` gives just these."""
    assert module.__all__ == sorted(set(module.__all__))
    found: dict[str, Any] = {}
    exec(f"from {module.__name__} import *", found)
    del found["__builtins__"]
    assert {name: getattr(module, name) for name in module.__all__} == found


@every_module
def test_all_is_complete(module: ModuleType) -> None:
    """A package exports all that it imports of its own, and a module all its public classes."""
    assert module.__file__ is not None
    tree = parsed(Path(module.__file__))
    if module.__file__.endswith("__init__.py"):
        imports = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.level]
        names = {alias.asname or alias.name for node in imports for alias in node.names}
        assert names == set(module.__all__)
    else:
        names = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        assert {n for n in names if not n.startswith("_")} <= set(module.__all__)


def module_of(path: Path) -> str:
    """Return the name to import a module of the package by."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def test_every_class_of_the_faces_can_be_imported() -> None:
    """What `tailnet` exports has all errors, and all that its modules declare public."""
    declared = {
        name
        for path in [*PACKAGE.glob("*.py"), *PACKAGE.glob("_*/*.py")]
        if path.stem not in {"__init__", "__main__", "errors"}
        for name in getattr(importlib.import_module(module_of(path)), "__all__", ())
    }
    public = declared | {name for name in errors.__all__ if name.startswith("Tailnet")}
    assert public - set(tailnet.__all__) == {"Address"}


# --- an import ---

# Runs before and after the import, in a program of its own.
IMPORT = """
import asyncio, json, logging, os, signal, sys, threading, warnings

def state():
    return {
        "environ": dict(os.environ),
        "fds": sorted(os.listdir("/dev/fd")),
        "threads": threading.active_count(),
        "signals": [str(signal.getsignal(s)) for s in sorted(signal.valid_signals())],
        "wakeup": signal.set_wakeup_fd(-1),
        "policy": str(getattr(asyncio.events, "_event_loop_policy", None)),
        "loop": str(asyncio.events._get_running_loop()),
        "hook": str(sys.excepthook) + str(threading.excepthook) + str(sys.unraisablehook),
        "warnings": [str(f) for f in warnings.filters],
        "handlers": {
            name: [type(handler).__name__ for handler in logger.handlers]
            for name, logger in [("root", logging.root), *logging.root.manager.loggerDict.items()]
            if getattr(logger, "handlers", None)
        },
        "levels": [logging.root.level, logging.getLogger("tailnet").level],
        "disabled": [logging.root.manager.disable, logging.getLogger("tailnet").propagate],
    }

import pydantic  # what it does is not ours
before = state()
import tailnet
import tailnet.testing
after = state()
changed = {key: value for key, value in after.items() if before[key] != value}
loaded = [name for name in sys.modules if name in ("tailnet._native", "_cffi_backend")]
json.dump([changed, loaded, tailnet._engine.lib.usable()], sys.stdout)
"""


def test_import_starts_nothing() -> None:
    """An import loads and starts nothing, prints nothing, and adds a NullHandler and no more."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    changed, loaded, usable = json.loads(done.stdout)
    assert changed == {"handlers": {"tailnet": ["NullHandler"]}}
    assert loaded == []
    assert usable is False


def test_import_takes_only_what_every_program_needs() -> None:
    """A program with threads does not pay for asyncio and its TLS, and nobody for cffi.

    benchmarks/imports.py has the time that this is about.
    """
    code = "import sys, tailnet; print(*sorted({'asyncio', 'cffi', 'ssl'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "\n"


# --- who may do what ---


def who(what: str) -> set[str]:
    """Return the modules of the package that import something, or call a method of that name."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(parsed(path)):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [part for alias in node.names for part in alias.name.split(".")]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                names = [node.func.attr]
            if what in names:
                found.add(path.relative_to(PACKAGE).as_posix())
    return found


@pytest.mark.parametrize(
    ("what", "modules"),
    [
        ("_native", {"_engine/lib.py"}),
        ("select", {"_engine/wait.py"}),
        ("selectors", set()),
        ("add_reader", {"_engine/wait.py"}),
        ("add_writer", {"_engine/wait.py"}),
    ],
)
def test_one_module_calls_and_one_waits(what: str, modules: set[str]) -> None:
    """Only lib.py imports the native library, and only wait.py waits for descriptors."""
    assert who(what) == modules


def test_signature_of_the_configuration_has_every_field() -> None:
    """The __init__ that type checkers see has each field, by name only and with a default."""
    (init,) = (
        node
        for node in ast.walk(parsed(PACKAGE / "config.py"))
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    assert [argument.arg for argument in init.args.kwonlyargs] == list(TailnetConfig.model_fields)
    assert [argument.arg for argument in init.args.args] == ["self"]
    assert init.args.vararg is init.args.kwarg is None
    assert None not in init.args.kw_defaults


# --- the two faces ---


@faces
def test_faces_have_the_same_methods(sync: type, asynchronous: type) -> None:
    """Both faces have the same methods with the same parameters, and differ in what is awaited."""
    ones, others = methods(sync), methods(asynchronous)
    assert set(ones) == set(others)
    for name, one in ones.items():
        other = others[name]
        if isinstance(one, property):
            assert one is other, name
            continue
        assert inspect.signature(one).parameters == inspect.signature(other).parameters, name
        returns = inspect.signature(other).return_annotation.removeprefix("Async")
        assert inspect.signature(one).return_annotation == returns, name
        assert not inspect.iscoroutinefunction(one), name
    waits = {name for name, method in others.items() if inspect.iscoroutinefunction(method)}
    at_once = {name for name in others if not isinstance(others[name], property)} - waits
    assert at_once == AT_ONCE[asynchronous]
    assert inspect.signature(sync) == inspect.signature(asynchronous)


@faces
def test_faces_differ_in_their_protocols(sync: type, asynchronous: type) -> None:
    """A face has the special methods of its own kind, and none of the other's."""
    pairs = [("enter", "aenter"), ("exit", "aexit"), ("iter", "aiter"), ("next", "anext")]
    for one, other in pairs:
        has = hasattr(sync, f"__{one}__")
        assert has == hasattr(asynchronous, f"__{other}__")
        assert has or one in {"iter", "next"}
        assert not hasattr(sync, f"__{other}__")
        assert not hasattr(asynchronous, f"__{one}__")


# --- what is written about it ---


@every_class
def test_everything_public_is_described(cls: type) -> None:
    """Every public class, and each of its own public methods and properties, has a docstring."""
    assert (cls.__doc__ or "").strip()
    undescribed = [n for n, method in methods(cls).items() if not (method.__doc__ or "").strip()]
    assert undescribed == []


def test_every_public_function_and_module_is_described() -> None:
    """Every public function, and every module, has a docstring."""
    for module in MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            assert not inspect.isfunction(value) or value.__doc__, name
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(parsed(path)), path


# --- what type checkers see ---


def test_every_public_method_is_type_checked() -> None:
    """tests/typing/api.py, which checkers read, uses each public class and method."""
    tree = parsed(API)
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    deprecated = {"copy", "parse_obj", "construct"}  # by pydantic; checkers complain
    needed = {name for cls in CLASSES for name in methods(cls)} - deprecated
    needed |= {cls.__name__ for cls in CLASSES if not issubclass(cls, errors.TailnetError)}
    assert needed - used == set()


def test_pyright_agrees() -> None:
    """Pyright, strict, finds in tests/typing/api.py what mypy finds: that every type is right."""
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--warnings", str(API)],
        cwd=ROOT,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},  # asks no registry for news
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
