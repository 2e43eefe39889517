"""Run a wheel of another processor: a Debian for it in a directory, under qemu's user emulation.

Rules of this file:

- Nothing is installed on this machine: apt works in directories of its own, and packages are only
  unpacked. It needs apt-get and dpkg-deb, so Debian or Ubuntu, and their package index.
- Its Python is a script that calls qemu, and names itself as the program (-0): so sys.executable,
  which the demo and the smoke suite start, is that script again. No binfmt_misc, no chroot and no
  root are needed.
- The wheels are chosen and unpacked by this machine's pip: an emulated one is slow.

Called by check_wheel.py.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "build" / "foreign"

DEBIAN = {"aarch64": "arm64"}  # Python's name of a processor, and Debian's
# The newest glibc for which dependencies may be built: the emulated Debian has a newer one.
PLATFORMS = ["manylinux_2_17", "manylinux2014", "manylinux_2_28"]


def machine(wheel: Path) -> str:
    """Return the processor that a wheel is for."""
    found = re.search(r"_(x86_64|aarch64|arm64)$", wheel.stem)
    return found[1] if found else ""


def check(wheel: Path, smoke: Path) -> None:
    """Install the wheel beside an emulated Python, and use it.

    Raises:
        SystemExit: it fails, or this machine cannot emulate; the text says which.
    """
    processor = machine(wheel)
    if processor not in DEBIAN or not shutil.which("apt-get"):
        raise SystemExit(f"{wheel.name} cannot be run here: no Debian for {processor or 'it'}.")
    emulator = qemu(processor)
    system = debian(DEBIAN[processor])
    (interpreter,) = system.glob("usr/bin/python3.[0-9]*[0-9]")
    version = interpreter.name.removeprefix("python")
    print(f"==> {wheel.name} on {processor}, emulated, Python {version}", flush=True)
    with tempfile.TemporaryDirectory(prefix="tailnet-check-") as temporary:
        home = Path(temporary)
        python = environment(home / "venv", [str(emulator), "-L", str(system)], interpreter)
        packages = home / "venv" / "lib" / interpreter.name / "site-packages"
        install(wheel, processor, version, packages)
        shutil.copy(smoke, home)
        env = {"PATH": "/usr/bin:/bin", "HOME": temporary, "LANG": "C.UTF-8"}
        for words in (
            ["-m", "tailnet", "version"],
            ["-m", "tailnet", "demo"],
            ["-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "smoke.py"],
        ):
            _run(python, *words, env=env, cwd=home)


def environment(directory: Path, emulator: list[str], interpreter: Path) -> Path:
    """Make a virtual environment of an emulated interpreter, and return its python."""
    python = directory / "bin" / "python"
    python.parent.mkdir(parents=True)
    command = shlex.join([*emulator, "-0", str(python), str(interpreter)])
    python.write_text(f'#!/bin/sh\nexec {command} "$@"\n', "utf-8")
    python.chmod(0o755)
    (directory / "pyvenv.cfg").write_text(f"home = {interpreter.parent}\n", "utf-8")
    return python


def install(wheel: Path, processor: str, version: str, packages: Path) -> None:
    """Unpack the wheel, pytest and what they need for that processor and Python."""
    pip = [sys.executable, "-m", "pip"]
    foreign = ["--only-binary=:all:", "--python-version", version, "--implementation", "cp"]
    foreign += [f"--platform={platform}_{processor}" for platform in PLATFORMS]
    house = PLACE / "wheelhouse"
    for old in house.glob("tailnet-*.whl"):
        old.unlink()  # of another build, with the same name
    _run(*pip, "download", "-q", *foreign, "-d", house, wheel, "pytest")
    local = ["--no-index", "--find-links", house]
    _run(*pip, "install", "-q", *foreign, *local, "--target", packages, wheel, "pytest")


def qemu(processor: str) -> Path:
    """Return the emulator: the one on PATH, or that of Debian's package, unpacked."""
    name = f"qemu-{processor}-static"
    installed = shutil.which(name)
    if installed:
        return Path(installed)
    place = PLACE / "qemu"
    if not (place / "usr" / "bin" / name).exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        _run("apt-get", "-q", "download", "qemu-user-static", cwd=place)
        (package,) = place.glob("*.deb")
        _run("dpkg-deb", "-x", package, place)
        package.unlink()
    return place / "usr" / "bin" / name


def debian(architecture: str) -> Path:
    """Return a directory with Python and what it needs, of Debian's packages for a processor."""
    system = PLACE / architecture
    if not system.exists():
        half, apt = PLACE / f"{architecture}.half", PLACE / "apt"
        for path in (half, apt):
            shutil.rmtree(path, ignore_errors=True)
        for path in (half, apt / "state" / "lists" / "partial", apt / "archives" / "partial"):
            path.mkdir(parents=True)
        (apt / "status").touch()  # nothing is installed yet
        settings = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Sandbox::User": "root",  # or it looks for a user who may read these directories
            "Dir::State": apt / "state",
            "Dir::State::status": apt / "status",
            "Dir::Cache": apt,
        }
        apt_get = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in settings.items())]
        _run(*apt_get, "update")
        _run(*apt_get, "install", "-y", "--no-install-recommends", "--download-only", "python3")
        for package in sorted((apt / "archives").glob("*.deb")):
            _run("dpkg-deb", "-x", package, half)
        half.rename(system)
    return system


def _run(*command: object, env: dict[str, str] | None = None, cwd: Path = ROOT) -> None:
    words = [str(word) for word in command]
    code = subprocess.run(words, cwd=cwd, env=env, check=False).returncode
    if code:
        raise SystemExit(f"failed ({code}): {shlex.join(words)}")
