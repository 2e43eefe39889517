"""examples/one_file, packed by the commands of its README and run where next to nothing is.

Called by tools/check_wheel.py with the wheel and what it depends on: pip finds them in
PIP_FIND_LINKS alone. Both tests print the size of the file.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tailnet.testing import Testnet

EXAMPLE = Path(os.environ["ONE_FILE_EXAMPLE"])

# glibc, whole: what its package calls one library lies in several files.
_LIBRARIES = {"c": 6, "dl": 2, "m": 6, "pthread": 0, "resolv": 2, "rt": 1, "util": 1}
GLIBC = [f"lib{name}.so.{number}" for name, number in _LIBRARIES.items()]

# A job in the background is started with SIGINT ignored, and would leave that to the services.
signal.signal(signal.SIGINT, signal.default_int_handler)

AS_ROOT = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount"]


def commands(tool: str) -> list[str]:
    """Return the commands of the README that pack with this tool, once it is installed."""
    text = (EXAMPLE / "README.md").read_text("utf-8")
    (block,) = re.findall(rf"```sh\n([^`]*\n{tool} .*?)```", text, re.DOTALL)
    return [line for line in block.splitlines() if "pip install" not in line]


def pack(tool: str, directory: Path) -> None:
    """Pack the service as the README does."""
    shutil.copy(EXAMPLE / "service.py", directory)
    for command in commands(tool):
        subprocess.run(command, shell=True, cwd=directory, check=True, timeout=300)


def greeted(command: Sequence[str | Path], env: dict[str, str]) -> bytes:
    """Start the service, call it from another node, interrupt it; return what it said."""
    with Testnet() as net, net.tailnet("caller") as caller:
        env = {**env, "TS_AUTHKEY": net.auth_key, "TS_CONTROL_URL": net.url}
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as service:
            try:
                assert service.stdout is not None
                assert service.stdout.readline().startswith("greeter.")
                with caller.dial("greeter:80", timeout=30) as conn:
                    said = conn.recv(100)
            finally:
                service.send_signal(signal.SIGINT)
                try:
                    code = service.wait(30)
                finally:
                    service.kill()
    assert code == 0
    return said


def jail(directory: Path, program: Path) -> Path:
    """Make a root directory with the program, glibc and /tmp; return it."""
    used = subprocess.run(["ldd", program], capture_output=True, check=True, text=True).stdout
    libraries = {Path(path) for path in re.findall(r"(/\S+) \(0x", used)}
    assert {path.name for path in libraries} == {"libc.so.6", "ld-linux-x86-64.so.2"}
    (libc,) = (path for path in libraries if path.name == "libc.so.6")
    for path in libraries | {libc.with_name(name) for name in GLIBC}:
        place = directory / path.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
        place.chmod(0o755)
    (directory / "tmp").mkdir(mode=0o777)
    shutil.copy(program, directory / "greeter")
    return directory


def test_an_executable_needs_only_glibc_and_tmp(tmp_path: Path) -> None:
    """It joins and serves without Python, tailscaled, /proc, /dev or /etc, and cleans up."""
    pack("pyinstaller", tmp_path)
    program = tmp_path / "dist" / "greeter"
    print(f"{program.name}: {program.stat().st_size:,} bytes")
    root = jail(tmp_path / "root", program)
    inside = {path.name for path in root.rglob("*") if path.is_file()}
    assert inside == {"greeter", "ld-linux-x86-64.so.2", *GLIBC}
    chroot = shutil.which("chroot", path=os.defpath + ":/usr/sbin:/sbin")
    assert chroot
    assert greeted([*AS_ROOT, chroot, root, "/greeter"], {"PATH": os.environ["PATH"]}) == (
        b"Hello caller!\n"
    )
    assert [path.name for path in (root / "tmp").iterdir()] == []


def test_a_zip_file_needs_only_python(tmp_path: Path) -> None:
    """It joins and serves on a Python that has neither tailnet nor its dependencies."""
    pack("shiv", tmp_path)
    program = tmp_path / "greeter.pyz"
    print(f"{program.name}: {program.stat().st_size:,} bytes")
    python = Path(sys.base_prefix, "bin", "python3")
    alone = [str(python), "-c", "import tailnet"]
    assert subprocess.run(alone, capture_output=True, check=False).returncode == 1
    assert greeted([python, program], {"SHIV_ROOT": str(tmp_path / "unpacked")}) == (
        b"Hello caller!\n"
    )
