"""What an installed wheel must do: `pytest smoke.py` in an environment with it and pytest alone.

Not collected with the other tests, which run on the source tree: tools/check_wheel.py, and
cibuildwheel, copy this file to where no source is.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import os
import pkgutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import tailnet
from tailnet import AsyncTailnet, TailnetConfig, TailnetHandle, TailnetRefused
from tailnet.cli import main
from tailnet.testing import Testnet

DISTRIBUTION = importlib.metadata.distribution("tailnet")


def test_the_installed_one_is_tested() -> None:
    """The package comes from this environment, and so does its library."""
    package = Path(tailnet.__file__).parent
    assert package.is_relative_to(sys.prefix)
    assert [path.name for path in package.glob("libtailnet.*")] in (
        ["libtailnet.so"],
        ["libtailnet.dylib"],
    )


def test_every_module_imports() -> None:
    """Nothing the package needs is missing from the wheel or its dependencies."""
    for module in pkgutil.walk_packages(tailnet.__path__, "tailnet."):
        if not module.name.endswith((".__main__", ".libtailnet")):
            importlib.import_module(module.name)


def test_importing_loads_no_go() -> None:
    """`import tailnet` alone leaves the library where it is."""
    code = "import sys, tailnet; print('tailnet._native' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "False\n"


def test_the_library_is_the_one_the_wheel_describes(capsys: pytest.CaptureFixture[str]) -> None:
    """Versions in metadata, bill of materials and library are the same."""
    assert tailnet.versions().tailnet == DISTRIBUTION.version
    assert tailnet.versions().matches_wheel is True
    assert main(["version"]) == 0
    assert capsys.readouterr().out.endswith("\nwheel matches\n")


def test_licences_are_there() -> None:
    """Ours, and those of every Go module, tailscale.com's among them."""
    texts = (
        DISTRIBUTION.read_text("licenses/LICENSE"),
        DISTRIBUTION.read_text("licenses/THIRD_PARTY_LICENSES"),
    )
    assert texts[0]
    assert texts[1]
    assert "\ntailscale.com v" in texts[1]


def test_two_nodes_talk(tailnet_pair: tuple[TailnetHandle, TailnetHandle]) -> None:
    """Pytest finds the fixtures; two nodes join, meet by name, and know each other."""
    server, client = tailnet_pair
    with server.listen(":80") as listener, client.dial("server:80", timeout=60) as out:
        conn, peer = listener.accept()
        with conn:
            assert peer == out.getsockname()
            assert server.whois(conn).node.hostname == "client"
            out.sendall(b"x" * 100_000)
            out.shutdown(socket.SHUT_WR)
            got = b"".join(iter(lambda: conn.recv(1 << 16), b""))
            assert got == b"x" * 100_000


def test_nobody_listens(tailnet_pair: tuple[TailnetHandle, TailnetHandle]) -> None:
    """An error has the class that the documentation names."""
    with pytest.raises(TailnetRefused):
        tailnet_pair[1].dial("server:81", timeout=60)


def test_asyncio() -> None:
    """The asyncio face serves asyncio's own server."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello " + await reader.readline())
        await writer.drain()
        writer.close()

    async def main(net: Testnet) -> bytes:
        async with AsyncTailnet(net.config("api")) as api, AsyncTailnet(net.config("me")) as me:
            server = await asyncio.start_server(greet, sock=await api.listen(":80"))
            async with server:
                reader, writer = await asyncio.open_connection(sock=await me.dial("api:80"))
                writer.write(b"you\n")
                answer = await reader.readline()
                writer.close()
                return answer

    with Testnet() as net:
        assert asyncio.run(main(net)) == b"hello you\n"


def test_a_program_ends(tmp_path: Path) -> None:
    """A program that never closes its node ends with code 0, and prints nothing."""
    code = "import sys, tailnet; tailnet.Tailnet(hostname='smoke').up(); sys.exit(0)"
    with Testnet() as net:
        env = {**os.environ, "TS_AUTHKEY": net.auth_key, "TS_CONTROL_URL": net.url}
        env["HOME"] = env["XDG_STATE_HOME"] = str(tmp_path)
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=env,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_configuration_is_checked() -> None:
    """Pydantic is there, of a version that will do."""
    with pytest.raises(tailnet.TailnetConfigError):
        TailnetConfig(hostname="no spaces allowed")
