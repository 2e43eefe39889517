"""What an error of an address, a face or a default says: what it is, and what to write instead."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import tailnet
from tailnet import (
    AsyncTailnet,
    Tailnet,
    TailnetConfigError,
    TailnetNameError,
    TailnetPeerNotFound,
    TailnetUnreachable,
)
from tailnet.testing import Testnet
from tests.support.faces import LIMIT, Face
from tests.support.nodes import Node

Pair = tuple[Node, Node]

# An address, and what the error of either call says of it.
WRITE = {
    "http://srv/": 'is a URL; write its host and port: "srv:80"',
    "https://srv": '"srv:443"',
    "wss://srv:8443/chat?x#y": '"srv:8443"',
    "ftp://srv": '"srv:PORT"',
    "https://[fd7a::1]/": r'"\[fd7a::1\]:443"',
    "srv:80/": '"srv:80"',
    "srv/path": '"srv:PORT"',
    "/run/srv.sock": "not a URL or a path",
    "srv:http": 'the port must be a number, and "http" is the name of a service; write "srv:80"',
    "srv:HTTPS": '"srv:443"',
    ":http": '":80"',
    "[fd7a::1]:ssh": r'"\[fd7a::1\]:22"',
    "srv:no-such-service": "the port must be a number, 0 to 65535",
    "srv:-1": "the port must be a number, 0 to 65535",
    "srv:65536": "the port must be a number, 0 to 65535",
    "80": 'port 80 of this node is ":80"',
    "srv": "want host:port",
    443: 'port 443 of this node is ":443", and of another one "name:443"',
    ("srv", "80"): r"the port must be a number: \('srv', 80\)",
    ("srv", "http"): r"the port must be a number: \('srv', 80\)",
    ("srv", "no-such-service"): "the port must be a number$",
    ("http://srv", 80): 'is a URL; write its host and port: "srv:80"',
}


@pytest.mark.parametrize("address", WRITE, ids=str)
def test_what_to_write(nodes: Pair, address: Any) -> None:
    """An address that is none says what to write, wherever it is given."""
    here, _ = nodes
    calls: list[Callable[[Any], object]] = [here.listen, here.dial]
    if isinstance(address, tuple) and isinstance(here.handle, tailnet.TailnetHandle):
        calls.append(here.handle.create_connection)
    for call in calls:
        with pytest.raises(TailnetConfigError, match=WRITE[address]) as caught:
            call(address)
        assert str(caught.value).startswith("address")


def test_the_password_of_a_url_is_not_shown(nodes: Pair) -> None:
    """A URL with a password is quoted without it."""
    with pytest.raises(TailnetConfigError, match='write its host and port: "srv:80"') as caught:
        nodes[0].dial("http://ann:pa55word@srv/")
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "api.example.com", "127.0.0.1", "[::1]"])
def test_a_dial_off_the_tailnet(nodes: Pair, host: str) -> None:
    """A name that is not on the tailnet has the hint that an address has."""
    with pytest.raises((TailnetNameError, TailnetUnreachable), match="allow_host_network=True"):
        nodes[0].dial(f"{host}:80")


# --- whois ---


def test_whois_by_name(nodes: Pair) -> None:
    """A name is looked up on the tailnet, short or whole, with or without a port."""
    here, there = nodes
    handle = there.handle
    for name in (handle.hostname, handle.fqdn, f"{handle.fqdn}.", handle.hostname.upper()):
        for target in (name, f"{name}:80", (name, 80)):
            assert here.whois(target).node.name == handle.fqdn
    assert here.whois(here.handle.hostname).node.name == here.handle.fqdn
    assert here.whois(f"[{handle.ips[1]}]:80").node.name == handle.fqdn


@pytest.mark.parametrize("name", ["nobody", "nobody.example.com", "nobody:80"])
def test_whois_of_nobody(nodes: Pair, name: str) -> None:
    """A name that the tailnet does not know is nobody, and the error names it."""
    with pytest.raises(TailnetPeerNotFound, match=f'knows no machine or name "{name[:6]}'):
        nodes[0].whois(name)


@pytest.mark.parametrize("target", ["", ".", "two words", "a..b", "http://cli/", "x" * 300])
def test_whois_of_nonsense(nodes: Pair, target: str) -> None:
    """What can be no name is a TailnetConfigError that quotes it."""
    with pytest.raises(TailnetConfigError, match=r"^whois: ") as caught:
        nodes[0].whois(target)
    assert json.dumps(target) in str(caught.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda node: node.handle.is_own(None), r"^is_own: None is no address"),
        (lambda node: node.ping(3), r"^ping: 3 is no address"),
        (lambda node: node.dial("api:0"), r'^cannot dial "api:0": .*nobody listens on port 0$'),
        (lambda node: node.listen(True), r'^address True: want "host:port" [^;]*$'),
        (lambda node: node.listen(":80", backlog=1 << 31), r"want a number from 1 to 2147483647"),
    ],
    ids=["is_own", "ping", "port 0", "True", "backlog"],
)
def test_the_error_names_what_was_called(
    nodes: Pair, call: Callable[[Any], object], said: str
) -> None:
    """What cannot be meant is a TailnetConfigError about that call."""
    with pytest.raises(TailnetConfigError, match=said):
        call(nodes[0])


def test_a_ping_of_nobody_says_the_address_once(nodes: Pair) -> None:
    """An address that no peer has is in the error, and not twice."""
    with pytest.raises(TailnetUnreachable, match=r"^cannot ping 1\.2\.3\.4: "):
        nodes[0].ping("1.2.3.4")


# --- faces ---


class Mine(Tailnet):
    """A program's own class."""


class AsyncMine(AsyncTailnet):
    """A program's own class."""


def test_with_of_the_other_face() -> None:
    """`with` and `async with` of the wrong face name the right one, of a subclass too."""
    config: dict[str, Any] = {"hostname": "none"}
    for cls, name in ((AsyncTailnet, "AsyncTailnet"), (AsyncMine, "AsyncTailnet")):
        tn: Any = cls(**config)
        want = f"^{name} is for `async with`; `with` takes a Tailnet$"
        with pytest.raises(TypeError, match=want), tn:
            pass

    async def enter(thing: Any) -> None:
        async with thing:
            pass

    for sync in (Tailnet(**config), Mine(**config)):
        with pytest.raises(TypeError, match=r"^Tailnet is .* takes an AsyncTailnet$"):
            asyncio.run(enter(sync))


def test_with_of_the_other_faces_handle(nodes: Pair, face: Face) -> None:
    """So do a handle and a watch."""
    handle: Any = nodes[0].handle

    async def enter(thing: Any) -> None:
        async with thing:
            pass

    for thing in (handle, handle.watch()):
        name = type(thing).__name__
        if face.name == "sync":
            with pytest.raises(TypeError, match=f"^{name} is for `with`; .* an Async{name}$"):
                asyncio.run(enter(thing))
        else:
            want = f"^{name} is for `async with`; .* a {name[5:]}$"
            with pytest.raises(TypeError, match=want), thing:
                pass
        if thing is not handle:
            thing.close()
    assert not handle.closed


def test_awaiting_accept(net: Testnet) -> None:
    """`await listener.accept()` names loop.sock_accept, whether a connection waits or not."""

    async def main() -> None:
        async with net.async_tailnet("here") as here, net.async_tailnet("there") as there:
            listener: Any = await here.listen(":80")
            with pytest.raises(BlockingIOError, match=r"loop\.sock_accept") as caught:
                await listener.accept()
            assert caught.value.errno == errno.EAGAIN
            loop = asyncio.get_running_loop()
            with listener, await there.dial(f"{here.ip}:80"):
                waiting = asyncio.Event()
                loop.add_reader(listener, waiting.set)
                await asyncio.wait_for(waiting.wait(), LIMIT)
                loop.remove_reader(listener)
                accepted = listener.accept()
                with pytest.raises(TypeError, match=r"loop\.sock_accept"):
                    await accepted
                connection, peer = accepted
                assert peer == connection.getpeername()
                connection.close()

    asyncio.run(main())


# --- the default state directory ---


@pytest.mark.parametrize("home", ["/", "/nonexistent"])
def test_a_home_that_cannot_be_written_to(home: str) -> None:
    """The error names the directory, and every way out."""
    code = (
        "import os, tailnet; config = tailnet.TailnetConfig(hostname='api')\n"
        "os.getuid() or os.setuid(54321)\n"
        "try: config.to_native({'HOME': os.environ['HOME']})\n"
        "except tailnet.TailnetConfigError as e: print(e)"
    )
    command, env = [sys.executable, "-c", code], {**os.environ, "HOME": home}
    said = subprocess.run(command, env=env, stdout=-1, text=True, check=True, timeout=LIMIT).stdout
    assert said.startswith("state_dir: this user may not write to /, and the default is /")
    assert all(word in said for word in ("state_dir,", "XDG_STATE_HOME", "ephemeral=True")), said
