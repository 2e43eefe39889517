"""What `make` does: one function per verb. `python tools/dev.py VERB` is the same without make.

Rules of this file:
- It runs on the bare interpreter, before anything is installed: standard library only, and syntax
  that an old Python can read, so that it can say which Python is needed.
- It needs Python, a C compiler and the package index; Go comes from the index where it is missing.
- A step that has nothing to do takes a second: Go's cache, setuptools' timestamps and two stamp
  files decide. Without .venv (`make clean`) everything is made again.

Read next: build_go.py, which builds.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import build_go  # noqa: E402

VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"

# What the tests need: all of it, but what has no wheels for a free-threaded Python.
EXTRAS = "dev" if sysconfig.get_config_var("Py_GIL_DISABLED") else "dev,gil"

# Checks that are Go programs, built from the versions in tools/go.mod.
STATICCHECK = "honnef.co/go/tools/cmd/staticcheck"
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint"

# A module at a time in each process: its fixtures, an offline tailnet above all, are made once.
# Nothing takes the place of a process that died: pytest-xdist would then wait for ever.
PARALLEL = ["-n", "auto", "--dist=loadfile", "--max-worker-restart=0"]

# The Go packages without Tailscale in them: there `go test -race` starts in seconds.
RACE = ["./internal/bridge/...", "./internal/fault/..."]


def say(text: str) -> None:
    """Print one step before it starts."""
    print(f"==> {text}", file=sys.stderr, flush=True)


def run(*command: object, cwd: Path = ROOT) -> None:
    """Run one command; its failure ends this program with its own code, and no traceback."""
    words = [str(word) for word in command]
    code = subprocess.run(words, cwd=cwd, env=environ(), check=False).returncode
    if code:
        say(f"failed ({code}): " + " ".join(words).replace(f"{ROOT}{os.sep}", ""))
        raise SystemExit(code if code > 0 else 128 - code)  # killed by a signal: as a shell says it


def go(*command: object) -> None:
    """Run a Go command in go/ with the settings and the Go of the build."""
    run(PYTHON, "build_go.py", "--exec", *command)


def environ() -> dict[str, str]:
    """Return the environment of every command: .venv first, as if it were activated."""
    env = dict(os.environ, VIRTUAL_ENV=str(VENV))
    env["PATH"] = os.pathsep.join([str(VENV / "bin"), env.get("PATH", os.defpath)])
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    env.pop("PYTHONHOME", None)
    return env


# --- set-up ----------------------------------------------------------------------------------


def build() -> None:
    """Make everything ready to run: .venv, the two native files, the package and all tools."""
    prepare()
    say("build the Go library and the extension (the first time compiles Tailscale: minutes)")
    run(PYTHON, "setup.py", "-q", "build_ext", "--inplace")
    with Stamp("installed", (ROOT / "pyproject.toml").read_text("utf-8")) as stale:
        if stale:
            say("install the package (editable) and the tools")
            run(PYTHON, "-m", "pip", "install", "-q", "--no-build-isolation", "-e", f".[{EXTRAS}]")


def prepare() -> None:
    """Make .venv with what a build needs. Nothing is built in isolation: Go is installed once."""
    build_go.check_machine()
    if not PYTHON.exists():
        say(f"make .venv with Python {build_go.dotted(sys.version_info[:3])}")
        try:
            import ensurepip  # noqa: F401 - Debian packs it separately
        except ImportError:
            raise build_go.CannotBuild(
                "tailnet's build needs venv: `apt install python3-venv`."
            ) from None
        run(sys.executable, "-m", "venv", VENV)
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    needed = [*build_requirements(text), *build_go.go_requirements()]
    with Stamp("build-requirements", repr(needed)) as stale:
        if stale:
            say("install " + ", ".join(needed))
            run(PYTHON, "-m", "pip", "install", "-q", *needed)


def build_requirements(pyproject: str) -> list[str]:
    """Return [build-system] requires. Read by hand: Python 3.10 has no TOML."""
    found = re.search(r"^requires = (\[.*?\])", pyproject, re.MULTILINE | re.DOTALL)
    if not found:
        raise SystemExit("pyproject.toml has no `requires = [...]` line under [build-system]")
    return [str(item) for item in ast.literal_eval(found[1])]


class Stamp:
    """Remember in .venv what a step was last done for: `with Stamp(name, text) as stale:`.

    The stamp is written only when the block ends well, so a step cut short is done again.
    """

    def __init__(self, name: str, text: str) -> None:
        self._path = VENV / f".{name}"
        self._digest = hashlib.sha256(text.encode()).hexdigest()

    def __enter__(self) -> bool:
        return not self._path.exists() or self._path.read_text("utf-8") != self._digest

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._path.write_text(self._digest, "utf-8")


# --- verbs -----------------------------------------------------------------------------------


def lib() -> None:
    """Build the Go library only."""
    prepare()
    run(PYTHON, "build_go.py")


def demo() -> None:
    """Build, and show two nodes talking."""
    build()
    run(VENV / "bin" / "tailnet", "demo")


def test() -> None:
    """Run everything. The tests come first: what they say matters most."""
    build()
    say("build the tailscaled of the tests (the first time compiles it: minutes)")
    # Before the tests, whose time limits are not for that.
    run(PYTHON, "-c", "from tests.support.daemon import binaries; binaries()")
    started = time.monotonic()
    say("pytest, on every processor")
    run(PYTHON, "-m", "pytest", *PARALLEL)
    say("go test")
    go("go", "test", "./...")
    say("go test -race")
    go("go", "test", "-race", "-buildmode=default", *RACE)  # there is no pie with -race
    checks()
    say(f"everything passed in {time.monotonic() - started:.0f} s")


def coverage() -> None:
    """Run the tests on a library that counts, and print which statements none of them reached."""
    build()
    directory = ROOT / "build" / "coverage"
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "go").mkdir(parents=True)
    os.environ["GOCOVERDIR"] = str(directory / "go")  # where Go writes at each process's end
    os.environ["COVERAGE_FILE"] = str(directory / "python")
    say("build the Go library with counters")
    run(PYTHON, "build_go.py", "--coverage")
    failed = None
    try:
        say("pytest")
        run(PYTHON, "-m", "coverage", "run", "-m", "pytest", *PARALLEL)
        say("go test")
        counted = ["-covermode=atomic", "-coverpkg=tailnet/..."]
        into = f"-test.gocoverdir={directory / 'go'}"
        go("go", "test", *counted, "./internal/...", "-args", into)
    except SystemExit as error:
        failed = error  # what was reached is worth knowing all the same
    finally:
        run(PYTHON, "build_go.py")
    profile = directory / "go.profile"
    go("go", "tool", "covdata", "textfmt", f"-i={directory / 'go'}", f"-o={profile}")
    run(PYTHON, "tools/covered.py", directory)
    if failed:
        raise failed


def check() -> None:
    """Run the checks."""
    build()
    checks()


def checks() -> None:
    """Run every linter and type checker, Python's then Go's."""
    say("ruff")
    run(PYTHON, "-m", "ruff", "check")
    run(PYTHON, "-m", "ruff", "format", "--check")
    say("the synchronous face, as it is written")
    run(PYTHON, "tools/async_to_sync.py", "--check")
    say("mypy")
    run(PYTHON, "-m", "mypy")
    say("pyright")
    run(PYTHON, "-m", "pyright", "--warnings")
    say("gofmt, go vet")
    go("gofmt", "-d", ".")  # prints what differs, and succeeds whatever it finds: so also
    go("sh", "-c", 'test -z "$(gofmt -l .)"')
    go("go", "vet", "./...")
    say("staticcheck")
    go(go_tool(STATICCHECK), "./...")
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    if workflows:  # an sdist has none
        say("actionlint")
        go(go_tool(ACTIONLINT), *workflows)


def go_tool(package: str) -> Path:
    """Build a program of tools/go.mod and return its path."""
    output = VENV / "bin" / package.rpartition("/")[2]
    go("env", "GOWORK=off", "go", "-C", ROOT / "tools", "build", "-o", output, package)
    return output


def fmt() -> None:
    """Format, and repair what ruff can repair."""
    build()
    run(PYTHON, "-m", "ruff", "check", "--fix-only", "-q")
    run(PYTHON, "-m", "ruff", "format")
    run(PYTHON, "tools/async_to_sync.py")
    go("gofmt", "-l", "-w", ".")


def bench() -> None:
    """Run the benchmarks."""
    if not (ROOT / "benchmarks" / "__main__.py").exists():
        raise SystemExit("there are no benchmarks in this tree: benchmarks/__main__.py is missing")
    build()
    run(PYTHON, "-m", "benchmarks")


def wheel() -> None:
    """Build the wheels for the package index into dist/, on Linux those of every processor."""
    prepare()
    install("wheels.txt")
    run(PYTHON, "tools/wheels.py", "build")


def check_wheel() -> None:
    """Install what is in dist/ where nothing else is, and use it there."""
    prepare()
    run(PYTHON, "tools/check_wheel.py")


def check_sdist() -> None:
    """Go every way from the source distribution to an installed package."""
    prepare()
    install("sdist.txt")
    run(PYTHON, "tools/check_sdist.py")


def install(file: str) -> None:
    """Install what a file in tools/ names, where that has not been done."""
    path = ROOT / "tools" / file
    with Stamp(file, path.read_text("utf-8")) as stale:
        if stale:
            say(f"install what {path.relative_to(ROOT)} names")
            run(PYTHON, "-m", "pip", "install", "-q", "-r", path)


def clean() -> None:
    """Remove what is built. Go's own cache stays: other trees share it."""
    made = [
        VENV,
        *(ROOT / name for name in ("build", "dist", "dist-debug")),
        *(ROOT / "src").glob("*.egg-info"),
    ]
    made += [ROOT / name for name in (".mypy_cache", ".pytest_cache", ".ruff_cache")]
    made += [build_go.PACKAGE_DIR / build_go.LIBRARY]
    made += build_go.PACKAGE_DIR.glob("_native.*.so")
    for path in made:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


VERBS = {
    "lib": lib,
    "run": demo,
    "build": build,
    "test": test,
    "check": check,
    "coverage": coverage,
    "fmt": fmt,
    "bench": bench,
    "wheel": wheel,
    "check-wheel": check_wheel,
    "check-sdist": check_sdist,
    "clean": clean,
}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in VERBS:
        raise SystemExit("usage: python tools/dev.py " + "|".join(VERBS))
    try:
        VERBS[sys.argv[1]]()
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # as a shell says it
