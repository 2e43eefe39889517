"""Programs on a tailscaled that runs: the same as in the process."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import http.server
import socketserver
from collections.abc import Callable

import pytest

from tailnet import AsyncTailnet, Tailnet, TailnetConfig, TailnetHandle
from tailnet.testing import Testnet
from tests.support.daemon import Daemon
from tests.support.held import nothing_left
from tests.support.threads import Pool, finished, started
from tests.support.waiting import WAIT, eventually


def echo(config: TailnetConfig, call: Callable[[str, int], bytes]) -> bytes:
    """Serve one connection; `call` is somebody else."""
    with Tailnet(config) as tn, tn.listen(":7") as listener, Pool(1) as pool:
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


# --- servers of the standard library, which half-close each connection ---


class Handler(http.server.BaseHTTPRequestHandler):
    """Says who asks and gives back what was sent; HTTP/1.0 ends the connection then."""

    def do_POST(self) -> None:
        """Answer."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Client", self.client_address[0])
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Threading(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """A thread for each request."""


@pytest.mark.parametrize("kind", [http.server.HTTPServer, Threading])
def test_http_server(
    node: TailnetHandle,
    peer: TailnetHandle,
    capfd: pytest.CaptureFixture[str],
    kind: type[http.server.HTTPServer],
) -> None:
    """Request after request is answered whole, although a half-close is not supported."""
    server = kind(("", 0), Handler, bind_and_activate=False)
    server.socket.close()
    body = bytes(range(256)) * 1000
    with nothing_left(), node.listen(":0") as listener:
        server.socket = listener
        thread = started(server.serve_forever, 0.01)
        try:
            for turn in range(10):
                asking = http.client.HTTPConnection("node", timeout=WAIT)
                asking.sock = peer.dial((str(node.ip), listener.getsockname()[1]), timeout=WAIT)
                with contextlib.closing(asking):
                    asking.request("POST", f"/{turn}", body)
                    answer = asking.getresponse()
                    assert (answer.status, answer.getheader("Client")) == (200, str(peer.ip))
                    assert answer.read() == body
                assert thread.is_alive()
        finally:
            server.shutdown()
            finished(thread)
            server.server_close()
    assert capfd.readouterr() == ("", "")  # socketserver prints what a request raises
