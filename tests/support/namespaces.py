"""Network namespaces, out of which nothing leads."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

NAMESPACE = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]


NAMESPACE += ["--net", "--mount"]


def namespaces_work() -> bool:
    """Report whether this machine lets us make one, with the tools that takes."""
    if not Path("/dev/net/tun").exists() or not all(map(shutil.which, ("unshare", "ip", "mount"))):
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
