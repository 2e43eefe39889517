"""Prove a wheel by installing it: on every Python that is here, and on another processor.

Rules of this file:

- An environment has the wheel, its dependencies and pytest, from a directory of wheels and with
  no index; its PATH holds neither compiler nor Go, and no source is in reach.
- What is missing on this machine is named in the last line, so that nobody takes it for checked.

    python tools/check_wheel.py [WHEEL...]    without one: all in dist/

Read next: foreign.py, which runs the wheel of another processor.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import foreign  # noqa: E402

SMOKE = ROOT / "tests" / "installed" / "smoke.py"
ONE_FILE = ROOT / "tests" / "installed" / "one_file.py"
WHEELHOUSE = ROOT / "build" / "wheelhouse"


def say(text: str) -> None:
    """Print one step before it starts."""
    print(f"==> {text}", flush=True)


def run(*command: object, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> None:
    """Run a command; its failure is ours."""
    words = [str(word) for word in command]
    code = subprocess.run(words, cwd=cwd, env=env, check=False).returncode
    if code:
        raise SystemExit(f"failed ({code}): {' '.join(words)}")


def supported() -> list[str]:
    """Return the Python versions that pyproject.toml promises."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)


def find_python(version: str) -> str:
    """Return a Python of this version, from PATH or pyenv, or ""."""
    places = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin"), reverse=True)
    for place in [*places, None]:
        found = shutil.which(f"python{version}", path=str(place) if place else None)
        # pyenv's stand-ins are on PATH for Pythons that are not there.
        if found and not subprocess.run([found, "-V"], capture_output=True, check=False).returncode:
            return found
    return ""


def clean_environ(bin_dir: Path, home: Path) -> dict[str, str]:
    """Return an environment in which nothing of this machine is found."""
    path = {"PATH": str(bin_dir), "HOME": str(home), "XDG_STATE_HOME": str(home), "LANG": "C.UTF-8"}
    return {**path, "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def check(wheel: Path, python: str, version: str) -> None:
    """Install the wheel into a new environment of this Python, and use it."""
    say(f"{wheel.name} on Python {version}")
    house = WHEELHOUSE / version
    with tempfile.TemporaryDirectory(prefix="tailnet-check-") as temporary:
        home = Path(temporary)
        bin_dir = home / "venv" / "bin"
        run(python, "-m", "venv", home / "venv")
        pip = [bin_dir / "python", "-m", "pip"]
        for old in house.glob("tailnet-*.whl"):
            old.unlink()  # of another build, with the same name
        run(*pip, "download", "-q", "--only-binary=:all:", "-d", house, wheel, "pytest")
        shutil.copy(SMOKE, home)
        env = clean_environ(bin_dir, home)
        install = [*pip, "install", "-q", "--no-index", "--find-links", house, wheel, "pytest"]
        run(*install, env=env, cwd=home)
        for command in smoke_commands(bin_dir / "python"):
            run(*command, env=env, cwd=home)


def check_one_file(wheel: Path, python: str, version: str) -> None:
    """Pack examples/one_file with the wheel, and run what comes out where nothing else is.

    `check` has run for this version: the packers find the wheel and its dependencies there.
    """
    say(f"one file with {wheel.name} on Python {version}")
    house = WHEELHOUSE / version
    with tempfile.TemporaryDirectory(prefix="tailnet-check-") as temporary:
        home = Path(temporary)
        bin_dir = home / "venv" / "bin"
        run(python, "-m", "venv", home / "venv")
        install = [bin_dir / "python", "-m", "pip", "install", "-q"]
        run(*install, "--find-links", house, wheel, "pytest", "shiv")
        static = {**os.environ, "PYI_STATIC_ZLIB": "1"}  # as the example's README says
        run(*install, "--no-binary", "pyinstaller", "pyinstaller", env=static)
        shutil.copy(ONE_FILE, home)
        env = clean_environ(bin_dir, home) | {
            "PATH": f"{bin_dir}:/usr/bin:/bin",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(house),
            "ONE_FILE_EXAMPLE": str(ROOT / "examples" / "one_file"),
        }
        run(*pytest(bin_dir / "python", ONE_FILE.name), "-s", env=env, cwd=home)


def has_shared_library(python: str) -> bool:
    """Report whether PyInstaller can use this Python: it packs libpython, not the program."""
    code = "import sysconfig; print(sysconfig.get_config_var('Py_ENABLE_SHARED'))"
    return subprocess.check_output([python, "-c", code], text=True).strip() == "1"


def pytest(python: Path, file: str) -> list[object]:
    """Return the command that runs a file of tests; warnings are errors."""
    return [python, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", file]


def smoke_commands(python: Path) -> Iterator[Sequence[object]]:
    """Return what an environment with the wheel must be able to do."""
    yield python.parent / "tailnet", "version"
    yield python.parent / "tailnet", "demo"
    yield pytest(python, SMOKE.name)


def main(arguments: Sequence[str]) -> None:
    """Check the wheels that are named, or all in dist/."""
    wheels = [Path(each).resolve() for each in arguments] or sorted(ROOT.glob("dist/*.whl"))
    if not wheels:
        raise SystemExit("there is no wheel in dist/: `make wheel` builds it.")
    done: list[str] = []
    missing: list[str] = []
    for wheel in wheels:
        if not wheel.stem.endswith(platform.machine()):
            foreign.check(wheel, SMOKE)
            done.append(f"{foreign.machine(wheel)} emulated")
            continue
        pythons = {version: find_python(version) for version in supported()}
        missing += [f"Python {version}" for version, python in pythons.items() if not python]
        pythons = {version: python for version, python in pythons.items() if python}
        for version, python in pythons.items():
            check(wheel, python, version)
            done.append(f"Python {version}")
        packing = [version for version, python in pythons.items() if has_shared_library(python)]
        if packing and sys.platform == "linux":
            check_one_file(wheel, pythons[packing[-1]], packing[-1])
        (done if packing else missing).append("one file")
    say(f"installed and used: {', '.join(done)}; not on this machine: {', '.join(missing) or '-'}")


if __name__ == "__main__":
    main(sys.argv[1:])
