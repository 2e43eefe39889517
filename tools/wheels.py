"""Make the wheels for the package index: build them, finish them, judge them.

Rules of this file:

- Linux wheels are built anywhere: zig is a C compiler that carries the headers and stubs of every
  glibc, for every processor. Neither a container nor a second toolchain is needed.
- Every wheel is finished here, whoever built it: cibuildwheel calls `finish` for its repair step.
- A wheel beyond a limit is an error, and stays where it is for a look.
- What tools/wheels.txt installs is imported late: the tests of these scripts do without.

    python tools/wheels.py build [x86_64] [aarch64]    into dist/; what debuggers need, dist-debug/
    python tools/wheels.py finish WHEEL DIRECTORY      add the bill of materials, set the platform
    python tools/wheels.py judge WHEEL...

Read next: bom.py, what is added; check_wheel.py, which installs the result.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import bom  # noqa: E402

import build_go  # noqa: E402

DIST = ROOT / "dist"
DEBUG = ROOT / "dist-debug"

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}  # ours is Python's name; and Go's
GLIBC = (2, 17)  # what manylinux_2_17 allows; RHEL 7's, 2013
PLATFORM = "manylinux_" + "_".join(map(str, GLIBC))
LARGEST = 9_500_000  # bytes, compressed

# What a wheel may hold, and nothing else.
CONTENTS = re.compile(
    r"(tailnet/(\w+/)*(\w+\.pyi?|py\.typed)|pytest_tailnet\.py"
    r"|tailnet/(libtailnet\.(so|dylib)|_native\.(abi3|cpython-\w+-[\w-]+)\.so)"
    r"|tailnet-[^/]+\.dist-info/(METADATA|WHEEL|RECORD|top_level\.txt|entry_points\.txt"
    r"|licenses/(LICENSE|THIRD_PARTY_LICENSES)|sboms/tailnet\.cdx\.json))"
)


def run(*command: object) -> None:
    """Run a command in the source tree, with the tools of this environment; its failure is ours."""
    words = [str(word) for word in command]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "PATH": path}, check=False)
    if done.returncode:
        raise SystemExit(f"failed ({done.returncode}): {shlex.join(words)}")


# --- build -----------------------------------------------------------------------------------


def build(machine: str) -> None:
    """Build the wheel of one machine, and the same library for debuggers."""
    if sys.platform != "linux":
        raise SystemExit("tools/wheels.py builds for Linux on Linux; elsewhere use cibuildwheel.")
    os.environ.update(environ(machine))
    os.environ.setdefault("SOURCE_DATE_EPOCH", date_of_source())
    base = ROOT / "build" / f"manylinux_{machine}"
    shutil.rmtree(base, ignore_errors=True)  # a wheel holds whatever lies there
    made = base / "wheel"
    made.mkdir(parents=True)
    config = base / "setup.cfg"
    config.write_text(f"[build]\nbuild_base = {base}\n", "utf-8")
    os.environ["DIST_EXTRA_CONFIG"] = str(config)  # apart from what the user's compiler has built
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    run(*pip, "-w", made, ROOT)
    (raw,) = made.glob("*.whl")
    finished = finish(raw, DIST)
    debug = DEBUG / f"{finished.stem}.libtailnet.so"
    DEBUG.mkdir(exist_ok=True)
    go = build_go.find_go()
    command = build_go.library_command(go.path, debug, symbols=True)
    build_go.run_go(go, command, f"link {build_go.LIBRARY} with symbols")
    debug.with_suffix(".h").unlink()
    compare(finished, debug)
    judge(finished)


def date_of_source() -> str:
    """Return the date of all files in a wheel: the commit's, so that it gives the same wheel again.

    Raises:
        SystemExit: this is no clone; $SOURCE_DATE_EPOCH can say it then.
    """
    git = ["git", "log", "-1", "--format=%ct"]
    done = subprocess.run(git, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit("a wheel has the date of its commit: set SOURCE_DATE_EPOCH without git.")
    return done.stdout.strip()


def environ(machine: str) -> dict[str, str]:
    """Return what makes Go and setuptools build for `machine`, whatever this one is."""
    target = f"{machine}-linux-gnu.{build_go.dotted(GLIBC)}"
    return {
        "CC": shlex.join([sys.executable, "-m", "ziglang", "cc", "-target", target]),
        "GOOS": "linux",
        "GOARCH": MACHINES[machine],
        "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
    }


def compare(wheel: Path, debug: Path) -> None:
    """See to it that addresses in a crash of the wheel's library are those of the other one."""
    with tempfile.TemporaryDirectory() as directory:
        shipped = Path(zipfile.ZipFile(wheel).extract(f"tailnet/{build_go.LIBRARY}", directory))
        if _code(shipped) != _code(debug):
            raise SystemExit(f"{debug.name} is not the library of {wheel.name}")


def _code(library: Path) -> tuple[int, bytes]:
    from elftools.elf.elffile import ELFFile

    with library.open("rb") as file:
        elf: Any = ELFFile(file)
        section = elf.get_section_by_name(".text")
        return section["sh_addr"], section.data()


# --- finish ----------------------------------------------------------------------------------


def finish(wheel: Path, into: Path) -> Path:
    """Add bill of materials and licences, have the platform's tool repair it, return the result."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        run(sys.executable, "-m", "wheel", "unpack", wheel, "-d", directory / "unpacked")
        (tree,) = (directory / "unpacked").iterdir()
        describe(tree)
        run(sys.executable, "-m", "wheel", "pack", tree, "-d", directory)
        (packed,) = directory.glob("*.whl")
        repaired = directory / "repaired"
        repaired.mkdir()
        if sys.platform == "linux":
            # It has its name already: auditwheel would add the platform's old one, manylinux2014.
            audit = [sys.executable, "-m", "auditwheel", "repair", "--no-update-tags"]
            run(*audit, "-z", 9, "-w", repaired, packed)
        else:
            run("delocate-wheel", "-w", repaired, packed)
        (result,) = repaired.glob("*.whl")
        into.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(result, into / result.name))


def describe(tree: Path) -> None:
    """Write into an unpacked wheel what it carries, under which licences, and what it runs on."""
    (info,) = tree.glob("*.dist-info")
    found = bom.modules(tree / "tailnet" / build_go.LIBRARY)
    (info / "sboms").mkdir()
    bill = json.dumps(bom.bill(found), indent=1)
    (info / "sboms" / "tailnet.cdx.json").write_text(bill, "utf-8")
    (info / "licenses" / "THIRD_PARTY_LICENSES").write_text(bom.notices(found), "utf-8")
    tags = info / "WHEEL"  # `wheel pack` names the file by them
    tags.write_text(tags.read_text("utf-8").replace("-linux_", f"-{PLATFORM}_"), "utf-8")
    metadata = info / "METADATA"
    text = metadata.read_text("utf-8")
    ours = "License-File: LICENSE\n"
    metadata.write_text(
        text.replace(ours, f"{ours}License-File: THIRD_PARTY_LICENSES\n", 1), "utf-8"
    )


# --- judge -----------------------------------------------------------------------------------


def judge(wheel: Path) -> None:
    """Print what is measured, and end with everything that is wrong.

    Raises:
        SystemExit: something is.
    """
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    size = wheel.stat().st_size
    print(f"{wheel.name}\n  size   {size:>9,} bytes, at most {LARGEST:,}")
    wrong = [f"{size:,} bytes is more than {LARGEST:,}"] if size > LARGEST else []
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            archive.extractall(directory)
        files = [name for name in names if not name.endswith("/")]
        wrong += [f"{name} has no business there" for name in files if not CONTENTS.fullmatch(name)]
        (bill,) = directory.glob("*.dist-info/sboms/*.json")
        error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill.read_text("utf-8"))
        wrong += [f"{bill.name} is not CycloneDX: {error}"] if error else []
        if "linux" in wheel.stem:
            wrong += _judge_platform(wheel)
            for library in sorted(directory.glob("tailnet/*.so")):
                wrong += _judge_elf(library)
    if "-abi3-" in wheel.stem:
        try:
            run(sys.executable, "-m", "abi3audit", "--strict", wheel.resolve())
        except SystemExit as error:
            wrong.append(f"abi3audit {error}")
    if wrong:
        raise SystemExit("\n".join(f"{wheel.name}: {each}" for each in wrong))


def _judge_platform(wheel: Path) -> Iterator[str]:
    if not re.fullmatch(rf"[^-]+-[^-]+-[^-]+-[^-]+-{PLATFORM}_\w+", wheel.stem):
        yield f"its name has another platform than {PLATFORM}"
    show = [sys.executable, "-m", "auditwheel", "show", str(wheel)]
    said = " ".join(subprocess.check_output(show, text=True).split())
    found = re.search(r'following platform tag: "manylinux_(\d+)_(\d+)_', said)
    if not found or (int(found[1]), int(found[2])) > GLIBC:
        yield f"auditwheel does not find it fit for {PLATFORM}: {said}"


def _judge_elf(path: Path) -> Iterator[str]:
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as file:
        elf: Any = ELFFile(file)
        floor = glibc_floor(elf)
        print(
            f"  {path.name}: {path.stat().st_size:,} bytes, needs GLIBC {build_go.dotted(floor)},"
            f" at most {build_go.dotted(GLIBC)}"
        )
        if floor > GLIBC:
            yield f"{path.name} needs GLIBC {build_go.dotted(floor)}"
        tags = list(elf.get_section_by_name(".dynamic").iter_tags())
        runpath = [tag.runpath for tag in tags if tag.entry.d_tag == "DT_RUNPATH"]
        wanted = [] if path.name == build_go.LIBRARY else ["$ORIGIN"]
        if runpath != wanted or any(tag.entry.d_tag == "DT_RPATH" for tag in tags):
            yield f"{path.name} has RUNPATH {runpath}, which must be {wanted}"
        for section in elf.iter_sections():
            if section.name.startswith((".debug", ".symtab")):
                yield f"{path.name} has {section.name}: it is not stripped"
    data = path.read_bytes()
    for place in (ROOT / "go", ROOT / "build", Path(sys.prefix), Path.home() / "go"):
        if os.fsencode(place) in data:
            yield f"{path.name} names a directory of this machine, {place}"


def glibc_floor(elf: Any) -> tuple[int, ...]:
    """Return the newest version of glibc's symbols that a library asks for."""
    needed = elf.get_section_by_name(".gnu.version_r")
    names = [aux.name for _, auxes in needed.iter_versions() for aux in auxes] if needed else []
    found = [re.fullmatch(r"GLIBC_(\d+(?:\.\d+)+)", name) for name in names]
    return max((tuple(map(int, each[1].split("."))) for each in found if each), default=())


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description="Build, finish and judge tailnet's wheels.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("build").add_argument("machine", nargs="*", choices=[[], *MACHINES])
    finishing = verbs.add_parser("finish")
    finishing.add_argument("wheel", type=Path)
    finishing.add_argument("directory", type=Path)
    verbs.add_parser("judge").add_argument("wheel", type=Path, nargs="+")
    options = parser.parse_args()
    if options.verb == "build":
        for machine in options.machine or MACHINES:
            build(machine)
    elif options.verb == "finish":
        judge(finish(options.wheel.resolve(), options.directory))
    else:
        for wheel in options.wheel:
            judge(wheel)


if __name__ == "__main__":
    main()
