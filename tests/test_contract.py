"""The C contract: header, library, extension and stub agree, and the library keeps its word to C.

The library is only ever loaded in child processes here: a Go runtime in the process that runs the
tests would warn at every fork of the tests after these.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import build_ffi
import build_go
from tailnet.testing._control import KNOBS

HEADER = build_ffi.HEADER.read_text("utf-8")
LIBRARY = build_go.PACKAGE_DIR / build_go.LIBRARY
STUB = build_go.PACKAGE_DIR / "_native.pyi"
FUNCTIONS = re.findall(r"^extern \w+ (tailnet_\w+)\(", build_ffi.declarations(HEADER), re.MULTILINE)
CODES = dict(
    re.findall(r"^    (TAILNET_\w+) = (\d+)", build_ffi.declarations(HEADER), re.MULTILINE)
)
CONTRACT = Path(__file__).parent / "contract"
SHARED = CONTRACT / "checks.c"
PROGRAMS = sorted(path.stem for path in CONTRACT.glob("*.c") if path != SHARED)
STRICT = ("-std=c11", "-D_POSIX_C_SOURCE=200809L", "-pthread", "-Wall", "-Wextra", "-Werror")
# They watch the memory of the C side: the programs', and what libc reads and writes for them. The
# library is not instrumented, which is why the programs put pages that must not be touched behind
# what they hand to it. No ASAN_OPTIONS are needed: Go takes SIGSEGV over from the sanitizer and
# passes on what is not Go's, it borrows the alternate signal stacks of the sanitizer's threads, and
# it keeps nothing that malloc gave it, so that leaks are looked for as in any C program.
SANITIZERS = (
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    *("-fno-omit-frame-pointer", "-g"),
)


def in_child(code: str, *arguments: object) -> str:
    """Run Python in a child process and return what it printed."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture(scope="module")
def library() -> Path:
    """Return the built library; without one there is nothing to test."""
    if not LIBRARY.exists():
        pytest.fail(f"{LIBRARY.name} is not built: run `make build`")
    return LIBRARY


def test_header_is_read() -> None:
    """The patterns of this file find what the header declares."""
    assert len(FUNCTIONS) == HEADER.count("\nextern ") > 10
    assert CODES["TAILNET_OK"] == "0"
    codes = [int(CODES[name]) for name in CODES if name == "TAILNET_PENDING" or "_E_" in name]
    assert all(7001 <= code <= 7999 for code in codes)
    assert len(set(codes)) == len(codes) > 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF files")
def test_exactly_the_header_is_exported(library: Path) -> None:
    """The library exports each function the header declares, and nothing else of ours."""
    command = ["readelf", "--dyn-syms", "-W", str(library)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    exported = re.findall(r"(?:DEFAULT)\s+\d+ (tailnet_\w+)$", text, re.MULTILINE)
    assert sorted(exported) == sorted(FUNCTIONS)


def test_extension_has_the_header(library: Path) -> None:
    """The extension offers every function and constant, with the header's values."""
    assert library.exists()
    code = (
        "import json\n"
        "from tailnet._native import lib\n"
        "found = {name: getattr(lib, name) for name in dir(lib)}\n"
        "print(json.dumps(found, default=lambda _: 'function'))"
    )
    wanted = {name: int(code) for name, code in CODES.items()} | dict.fromkeys(
        FUNCTIONS, "function"
    )
    assert json.loads(in_child(code)) == wanted


def test_versions_agree(library: Path) -> None:
    """The library says the version of the package it was built for, and of what is in it."""
    assert library.exists()
    code = (
        "from tailnet._native import ffi, lib\n"
        "buf = ffi.new('char[]', 1024)\n"
        "answer = ffi.new('tailnet_answer *', {'buf': buf, 'cap': 1024})\n"
        "assert lib.tailnet_versions(answer) == lib.TAILNET_OK\n"
        "print(ffi.unpack(answer.buf, answer.len).decode())"
    )
    versions = json.loads(in_child(code))
    assert versions["tailnet"] == build_go.version()
    gomod = (build_go.GO_DIR / "go.mod").read_text("utf-8")
    assert f"tailscale.com {versions['tailscale']}\n" in gomod


def test_stub_has_the_header() -> None:
    """The stub lists exactly the header's functions and constants, with as many arguments."""
    tree = ast.parse(STUB.read_text("utf-8"))
    (lib,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Lib")
    constants = {
        n.target.id
        for n in lib.body
        if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    }
    arguments = {
        n.name: [a.arg for a in n.args.posonlyargs][1:]
        for n in lib.body
        if isinstance(n, ast.FunctionDef)
    }
    declared = {
        name: [
            re.split(r"[ *]", argument.strip())[-1]
            for argument in text.split(",")
            if argument != "void"
        ]
        for name, text in re.findall(r"^extern \w+ (\w+)\(([^)]*)\);", HEADER, re.MULTILINE)
    }
    assert constants == set(CODES)
    assert arguments == declared


@pytest.fixture(scope="module")
def sanitizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Return the options that make C programs watch their memory."""
    probe = tmp_path_factory.mktemp("probe") / "probe"
    source = probe.with_suffix(".c")
    source.write_text("int main(void) { return 0; }\n", "utf-8")
    build = [*shlex.split(build_go.find_compiler()), *SANITIZERS, str(source), "-o", str(probe)]
    for command in (build, [str(probe)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            if platform.libc_ver()[0] == "glibc":
                pytest.fail(f"C programs cannot be watched, install libasan: {done.stderr}")
            return ()  # musl has none
    return SANITIZERS


@pytest.mark.parametrize("name", PROGRAMS)
def test_contract_from_c(
    name: str, library: Path, sanitizers: tuple[str, ...], tmp_path: Path
) -> None:
    """A plain C program gets a documented code for everything, however it misuses the library."""
    program = tmp_path / name
    command = [
        *shlex.split(build_go.find_compiler()),
        *(*STRICT, "-pedantic", *sanitizers, f"-I{build_go.GO_DIR}"),
        *(str(CONTRACT / f"{name}.c"), str(SHARED), f"-L{library.parent}", "-ltailnet"),
        *(f"-Wl,-rpath,{library.parent}", "-o", str(program)),
    ]
    subprocess.run(command, check=True)
    done = subprocess.run(
        [program, json.dumps({"env": KNOBS})],
        env={**os.environ, **KNOBS},
        check=False,
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_contract_from_c_is_complete() -> None:
    """The C programs call every function of the header: as documented, badly, and for room."""
    called = set(re.findall(r"\b(tailnet_\w+)\(", (CONTRACT / "smoke.c").read_text("utf-8")))
    assert called == set(FUNCTIONS)
    with_answers = re.findall(
        r"^extern \w+ (tailnet_\w+)\([^)]*tailnet_answer", HEADER, re.MULTILINE
    )
    tried = set(re.findall(r"\{\"(tailnet_\w+)\",", (CONTRACT / "answers.c").read_text("utf-8")))
    assert tried == set(with_answers)


def test_contract_from_c_knows_every_field() -> None:
    """The C programs give every field of every JSON argument a value of each wrong kind."""
    source = (CONTRACT / "input.c").read_text("utf-8")
    rows = re.findall(r'\{"(tailnet_\w+)",(.*?\}\}\})', source, re.DOTALL)
    tried = {name: set(re.findall(r"\{\"(\w+)\", '", row)) for name, row in rows}
    for name, (file, begin) in {
        "tailnet_node_new": ("internal/config/config.go", "type Config struct"),
        "tailnet_node_up": ("internal/session/await.go", "type UpArgs struct"),
        "tailnet_listen": ("exports.go", "func tailnet_listen("),
        "tailnet_testcontrol_start": ("internal/testcontrol/control.go", "type Config struct"),
        "tailnet_testcontrol_do": ("internal/testcontrol/do.go", "type args struct"),
    }.items():
        _, _, rest = (build_go.GO_DIR / file).read_text("utf-8").partition(begin)
        fields = set(re.findall(r'`json:"(\w+)"`', re.split(r"\n\t?\}", rest)[0]))
        assert fields, name
        assert fields <= tried[name], name


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF files")
def test_library_is_found_beside_the_extension(library: Path) -> None:
    """The extension looks for the library beside itself and nowhere else."""
    (extension,) = library.parent.glob("_native.*.so")
    assert dynamic(extension, "RUNPATH") + dynamic(extension, "RPATH") == ["$ORIGIN"]
    assert library.name in dynamic(extension, "NEEDED")
    assert dynamic(library, "SONAME") == [library.name]
    assert dynamic(library, "RUNPATH") + dynamic(library, "RPATH") == []


def dynamic(file: Path, tag: str) -> list[str]:
    """Return the values of one tag of a file's dynamic section; readelf comes with the compiler."""
    text = subprocess.run(
        ["readelf", "-dW", file], check=True, capture_output=True, text=True
    ).stdout
    return re.findall(rf"\({tag}\).*\[(.*)\]", text)


def test_native_files_name_no_directory_of_the_build(library: Path) -> None:
    """Neither file holds the path of the tree it was built in, which would end up in wheels."""
    for file in [library, *library.parent.glob("_native.*.so")]:
        assert str(build_go.ROOT).encode() not in file.read_bytes(), file.name
