"""How a Python end does it with Tailscale's libtailscale, by ctypes; as networks.py has it.

Its source is not ours and comes with no package, so this contender is there for who has it:

    git clone https://github.com/tailscale/libtailscale
    LIBTAILSCALE=libtailscale python -m benchmarks -c go sync libtailscale

It is built as our library is: with the same tailscale.com, tags and patches, of its Go and C files
as they are.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import build_go

from .networks import Loopback, split
from .services import PORTS

LIBRARY = build_go.ROOT / "build" / "programs" / "libtailscale.so"


def build() -> None:
    """Build the library from the source that LIBTAILSCALE names, or leave the one that is there."""
    source = os.environ.get("LIBTAILSCALE")
    if not source:
        if LIBRARY.exists():
            return
        raise SystemExit(
            "libtailscale: set LIBTAILSCALE to a checkout of github.com/tailscale/libtailscale"
        )
    go = build_go.find_go()
    env = build_go.patched_environ(go)
    ours = Path(env["GOWORK"])
    tree = LIBRARY.parent / "libtailscale"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    for name in ("tailscale.go", "tailscale.c", "tailscale.h"):
        shutil.copy(Path(source, name), tree)
    module = (
        (build_go.GO_DIR / "go.mod")
        .read_text("utf-8")
        .replace("module tailnet", "module libtailscale", 1)
    )
    (tree / "go.mod").write_text(module, "utf-8")
    shutil.copy(build_go.GO_DIR / "go.sum", tree)
    work = ours.with_name("libtailscale.work")
    here, there = json.dumps(str(build_go.GO_DIR)), json.dumps(str(tree))
    work.write_text(ours.read_text("utf-8").replace(here, there), "utf-8")
    command = [go.path, "build", "-buildmode=c-shared", *build_go.FLAGS, "-ldflags=-s -w"]
    subprocess.run(
        [*command, "-o", str(LIBRARY), "."], cwd=tree, env={**env, "GOWORK": str(work)}, check=True
    )


class Listener:
    """What `accept()` is asked of."""

    def __init__(self, network: LibTailscale, fd: int, port: int) -> None:
        self._network, self._fd, self._port = network, fd, port

    def accept(self) -> tuple[socket.socket, str]:
        """Return the next connection."""
        return self._network.connection("accept", self._fd), ""

    def getsockname(self) -> tuple[str, int]:
        """Return the address."""
        return "", self._port


class LibTailscale(Loopback):
    """A node of libtailscale's."""

    def __init__(self, control: str, key: str, hostname: str) -> None:
        self._library = ctypes.CDLL(str(LIBRARY))
        self._node = self._library.tailscale_new()
        self._do("set_logfd", self._node, -1)
        self._do("set_ephemeral", self._node, 1)
        self._directory = tempfile.mkdtemp()
        settings = {
            "dir": self._directory,
            "hostname": hostname,
            "control_url": control,
            "authkey": key,
        }
        for name, value in settings.items():
            self._do(f"set_{name}", self._node, value.encode())

    def _do(self, name: str, *args: Any) -> None:
        if getattr(self._library, f"tailscale_{name}")(*args):
            text = ctypes.create_string_buffer(512)
            self._library.tailscale_errmsg(self._node, text, len(text))
            raise ConnectionError(f"libtailscale: {name}: {text.value.decode()}")

    def connection(self, name: str, *args: Any) -> socket.socket:
        """Return the connection that a call makes."""
        fd = ctypes.c_int()
        self._do(name, *args, ctypes.byref(fd))
        return socket.socket(fileno=fd.value)

    def join(self) -> str:
        """Join; return the address of the node."""
        self._do("up", self._node)
        shutil.rmtree(self._directory)  # nobody comes back to it, and this process just exits
        text = ctypes.create_string_buffer(128)
        self._do("getips", self._node, text, len(text))
        return text.value.decode().split(",")[0]

    def listen(self, service: str, backlog: int) -> Any:
        """Listen for a service."""
        del backlog  # it has none
        fd, port = ctypes.c_int(), PORTS[service]
        self._do("listen", self._node, b"tcp", f":{port}".encode(), ctypes.byref(fd))
        return Listener(self, fd.value, port)

    def dial(self, address: str) -> socket.socket:
        """Connect."""
        host, port = split(address)
        return self.connection("dial", self._node, b"tcp", f"{host}:{port}".encode())

    def path(self, address: str) -> str:
        """Say which way packets take: it does not tell."""
        del address
        return "unknown"
