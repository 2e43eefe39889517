"""A node where there is no /proc, as in a chroot: build_patches.py lets tsnet do without."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.test_hermetic import NAMESPACE

EMPTY_PROC = 'mount -t tmpfs none /proc && test ! -e /proc/self && exec "$@"'
IN_PLACE = [*[word for word in NAMESPACE if word != "--net"], "sh", "-c", EMPTY_PROC, "sh"]

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


@pytest.mark.skipif(not namespaces_work(), reason="needs Linux, unshare(1) and the right to mount")
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
