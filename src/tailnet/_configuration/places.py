"""Where things are on this machine: the default state directory, a tailscaled and its socket."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from ..errors import TailnetConfigError
from .paths import home

_SBIN = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin")

# What fits into a sockaddr_un, with a NUL.
_LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107


def default_state_dir(hostname: str, control_url: str, environ: Mapping[str, str]) -> str:
    """Return where a node's state is kept: one directory for each name and control server."""
    base = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):  # noqa: PTH117 - relative ones are ignored: XDG Base Directory
        base = str(Path(home(environ), ".local/state"))
    digest = hashlib.sha256(control_url.encode()).hexdigest()[:8]
    return str(Path(base, "tailnet", f"{hostname}-{digest}").absolute())


def require_writable(default: str) -> None:
    """Raise TailnetConfigError where this user cannot have the default state directory."""
    there = next(p for p in (Path(default), *Path(default).parents) if os.access(p, os.F_OK))
    if not os.access(there, os.W_OK | os.X_OK):
        raise TailnetConfigError(
            f"state_dir: this user may not write to {there}, and the default is {default}; set"
            " state_dir, or XDG_STATE_HOME, to a directory that it may write to, or"
            " ephemeral=True for a node that keeps no identity"
        )


def check_socket(path: Path) -> None:
    """Raise ValueError for the path of a socket that no system can connect to."""
    if (length := len(os.fsencode(path))) > _LONGEST_SOCKET:
        raise ValueError(
            f"is {length} bytes long, and the path of a socket has at most {_LONGEST_SOCKET};"
            " use a shorter one, such as a symbolic link to it"
        )


def require_socket(path: Path) -> None:
    """Raise TailnetConfigError where something else than a socket is there."""
    try:
        mode = path.stat().st_mode
    except OSError:  # joining says it: a daemon may come yet
        return
    if not stat.S_ISSOCK(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "no socket"
        raise TailnetConfigError(
            f"tailscaled_socket: {path} is {kind}; give the socket of tailscaled itself, such as"
            " /run/tailscale/tailscaled.sock, or leave it out"
        )


def find_tailscaled(environ: Mapping[str, str]) -> str:
    """Return the daemon of this machine, or ""."""
    # An ordinary user's PATH does not have where packages install it.
    path = os.pathsep.join([environ.get("PATH", os.defpath), *_SBIN])
    return shutil.which("tailscaled", path=path) or ""
