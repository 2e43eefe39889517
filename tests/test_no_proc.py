"""A node where things are missing, as in a chroot: /proc, or a home directory.

build_patches.py lets tsnet do without the one, go/internal/config/process.go without the other.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.namespaces import NAMESPACE

EMPTY_PROC = 'mount -t tmpfs none /proc && test ! -e /proc/self && exec "$@"'
MOUNTS = [word for word in NAMESPACE if word != "--net"]
IN_PLACE = [*MOUNTS, "sh", "-c", EMPTY_PROC, "sh"]

PROGRAM = """
from tailnet.testing import Testnet

with Testnet() as net, net.tailnet("api") as api, net.tailnet("caller") as caller:
    with api.listen(":80") as listener, caller.dial("api:80") as out:
        conn, peer = listener.accept()
        with conn:
            assert peer == out.getsockname()
            assert api.whois(conn).node.hostname == "caller"
"""


def namespaces_work() -> bool:
    """Report whether this machine lets us hide /proc from a program."""
    try:
        return subprocess.run([*IN_PLACE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


needs_mounts = pytest.mark.skipif(
    not namespaces_work(), reason="needs Linux, unshare(1) and the right to mount"
)


@needs_mounts
def test_a_node_needs_no_proc() -> None:
    """Nodes join, listen, dial and know each other where /proc is empty."""
    done = subprocess.run(
        [*IN_PLACE, sys.executable, "-W", "error", "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_mounts
@pytest.mark.parametrize("var", ["ro", "rw"])
def test_a_node_leaves_nothing_behind_without_a_home(tmp_path: Path, var: str) -> None:
    """Neither a temporary directory nor one in /var/lib is left: Tailscale's code wants logs there.

    It would make the one in /var/lib where it may, and a temporary one where it may not.
    """
    within = f'mount -t tmpfs -o {var} none /var && cd / && "$@" && ls -A /var'
    done = subprocess.run(
        [*MOUNTS, "sh", "-c", within, "sh", sys.executable, "-W", "error", "-c", PROGRAM],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == []
