"""Programs on a tailscaled that runs: the same as in the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tailnet import AsyncTailnet, Tailnet, TailnetConfig, TailnetHandle
from tailnet.testing import Testnet
from tests.conftest import WAIT, eventually
from tests.daemon import Daemon


def echo(config: TailnetConfig, call: Callable[[str, int], bytes]) -> bytes:
    """Serve one connection; `call` is somebody else."""
    with Tailnet(config) as tn, tn.listen(":7") as listener, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(call, str(tn.ip), 7)
        conn, peer = listener.accept()
        with conn:
            who = tn.whois(peer).node.hostname.encode()
            conn.sendall(who + b" said " + conn.recv(100))
        return answer.result(WAIT)


def echo_async(config: TailnetConfig, call: Callable[[str, int], bytes]) -> bytes:
    """As echo, with asyncio's streams."""

    async def main() -> bytes:
        async with AsyncTailnet(config) as tn:
            done = asyncio.Event()

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                who = (await tn.whois(writer)).node.hostname.encode()
                writer.write(who + b" said " + await reader.read(100))
                await writer.drain()
                writer.close()
                done.set()

            server = await asyncio.start_unix_server(serve, sock=await tn.listen(":7"))
            async with server:
                answer = await asyncio.to_thread(call, str(tn.ip), 7)
                await done.wait()
            return answer

    return asyncio.run(asyncio.wait_for(main(), WAIT))


@pytest.mark.parametrize("how", [echo, echo_async], ids=["sync", "asyncio"])
@pytest.mark.parametrize("backend", ["embedded", "tailscaled"])
def test_one_line_moves_a_program(
    net: Testnet, daemon: Daemon, peer: TailnetHandle, backend: str, how: Callable[..., bytes]
) -> None:
    """The same program, and another configuration."""
    config = {
        "embedded": net.config("echo"),
        "tailscaled": TailnetConfig(backend="tailscaled", tailscaled_socket=daemon.socket),
    }[backend]

    def call(ip: str, port: int) -> bytes:
        eventually("it is known", lambda: ip in str([p.ips for p in peer.status().peers]))
        with peer.dial((ip, port), timeout=WAIT) as near:
            near.sendall(b"hello")
            return b"".join(iter(lambda: near.recv(100), b""))

    assert how(config, call) == b"peer said hello"
