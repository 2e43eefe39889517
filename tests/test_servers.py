"""What servers believe of a tailnet's peers: the table of docs/servers.md, held to each server.

Each request forges what a reverse proxy would say. A row says whether the application was told the
peer's real address, and what else it was made to believe.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp.web
import hypercorn.asyncio
import hypercorn.config
import pytest
import tornado.httpserver
import tornado.ioloop
import tornado.web
import uvicorn
import waitress.server
import werkzeug.serving

from tailnet import TailnetHandle, TailnetListener
from tests.support.threads import finished, started
from tests.support.waiting import WAIT

DOCUMENT = Path(__file__).parent.parent / "docs" / "servers.md"

FORGED = (
    b"GET /forged/ HTTP/1.1\r\nHost: server\r\nConnection: close\r\nSCRIPT_NAME: /forged\r\n"
    b"X-Forwarded-Proto: https\r\nX-Forwarded-For: 127.0.0.1\r\nX-Real-Ip: 127.0.0.1\r\n"
    b"X-Forwarded-Prefix: /forged\r\nForwarded: for=127.0.0.1;proto=https\r\n\r\n"
)
PROXIED = b"PROXY TCP4 127.0.0.1 127.0.0.1 1 1\r\n"

Seen = dict[str, Any]
Serve = Callable[[TailnetListener, Path], contextlib.AbstractContextManager[object]]

WSGI_APP = """
import json

def app(environ, start):
    names = {"peer": "REMOTE_ADDR", "scheme": "wsgi.url_scheme", "prefix": "SCRIPT_NAME"}
    body = json.dumps({name: environ.get(key) for name, key in names.items()}).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
"""
_namespace: dict[str, Any] = {}
exec(WSGI_APP, _namespace)
wsgi_app: Callable[..., Iterable[bytes]] = _namespace["app"]


async def asgi_app(scope: Any, _receive: Any, send: Any) -> None:
    """Answer with what an ASGI server says of the connection."""
    if scope["type"] != "http":
        return
    client = scope["client"]
    said = {
        "peer": client and client[0],
        "scheme": scope["scheme"],
        "prefix": scope.get("root_path", ""),
    }
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})


@contextlib.contextmanager
def on_a_loop(serve: Callable[[asyncio.Event], Any]) -> Iterator[None]:
    """Run a server's coroutine function on a loop of its own, until it is told to end."""
    loop = asyncio.new_event_loop()
    over = asyncio.Event()
    thread = started(lambda: loop.run_until_complete(serve(over)))
    try:
        yield
    finally:
        loop.call_soon_threadsafe(over.set)
        finished(thread)
        loop.close()


def gunicorn(*settings: str) -> Serve:
    """Serve with gunicorn's workers on the descriptor."""

    @contextlib.contextmanager
    def serve(listener: TailnetListener, path: Path) -> Iterator[None]:
        (path / "application.py").write_text(WSGI_APP)
        (path / "settings.py").write_text("\n".join(settings))
        with subprocess.Popen(
            [
                sys.executable,
                "-m",
                "gunicorn",
                "--config",
                "settings.py",
                "--log-level",
                "error",
                "--bind",
                f"fd://{listener.fileno()}",
                "application:app",
            ],
            cwd=path,
            pass_fds=[listener.fileno()],
        ) as server:
            try:
                yield
            finally:
                server.terminate()
                server.wait(WAIT)

    return serve


def uvicorn_with(**settings: Any) -> Serve:
    """Serve with uvicorn."""

    @contextlib.contextmanager
    def serve(listener: TailnetListener, _: Path) -> Iterator[None]:
        config = uvicorn.Config(asgi_app, lifespan="off", log_level="error", **settings)
        server = uvicorn.Server(config)
        thread = started(lambda: server.run(sockets=[listener]))
        try:
            yield
        finally:
            server.should_exit = True
            finished(thread)

    return serve


def hypercorn_on(inet: bool) -> Serve:
    """Serve with hypercorn, on a descriptor or on what it is given."""

    @contextlib.contextmanager
    def serve(listener: TailnetListener, _: Path) -> Iterator[None]:
        class Config(hypercorn.config.Config):
            def create_sockets(self) -> hypercorn.config.Sockets:
                return hypercorn.config.Sockets([], [listener.as_inet()], [])

        config = Config() if inet else hypercorn.config.Config()
        config.bind = [f"fd://{os.dup(listener.fileno())}"]
        config.errorlog = None

        async def run(over: asyncio.Event) -> None:
            serving: Any = hypercorn.asyncio.serve
            await serving(asgi_app, config, shutdown_trigger=over.wait)

        with on_a_loop(run):
            yield
        if inet:
            os.close(int(config.bind[0].removeprefix("fd://")))

    return serve


def waitress_on(inet: bool) -> Serve:
    """Serve with waitress."""

    @contextlib.contextmanager
    def serve(listener: TailnetListener, _: Path) -> Iterator[None]:
        given = listener.as_inet() if inet else listener.dup()
        server = waitress.server.create_server(
            wsgi_app, sockets=[given], clear_untrusted_proxy_headers=True
        )
        over = threading.Event()

        def run() -> None:
            while not over.is_set():
                server.asyncore.loop(timeout=0.05, map=server._map, count=1)

        thread = started(run)
        try:
            yield
        finally:
            over.set()
            finished(thread)
            server.task_dispatcher.shutdown()
            server.close()
            given.close()

    return serve


@contextlib.contextmanager
def werkzeug_server(listener: TailnetListener, _: Path) -> Iterator[None]:
    """Serve with werkzeug's development server."""

    class Quiet(werkzeug.serving.WSGIRequestHandler):
        def log(self, type: str, message: str, *args: object) -> None:
            """Say nothing."""

    server = werkzeug.serving.make_server("127.0.0.1", 0, wsgi_app, request_handler=Quiet)
    server.socket.close()
    server.socket = listener.dup()
    thread = started(lambda: server.serve_forever(0.01))
    try:
        yield
    finally:
        server.shutdown()
        finished(thread)
        server.server_close()


def tornado_with(inet: bool, **settings: Any) -> Serve:
    """Serve with Tornado."""

    @contextlib.contextmanager
    def serve(listener: TailnetListener, _: Path) -> Iterator[None]:
        class Handler(tornado.web.RequestHandler):
            def get(self) -> None:
                request = self.request
                said = {"peer": request.remote_ip, "scheme": request.protocol, "prefix": ""}
                self.write(said)

        async def run(over: asyncio.Event) -> None:
            application = tornado.web.Application([(".*", Handler)], log_function=lambda _: None)
            server = tornado.httpserver.HTTPServer(application, **settings)
            listener.setblocking(False)  # as its own bind_sockets() has them
            server.add_socket(listener.as_inet() if inet else listener.dup())
            await over.wait()
            server.stop()
            await server.close_all_connections()

        with on_a_loop(run):
            yield

    return serve


@contextlib.contextmanager
def aiohttp_server(listener: TailnetListener, _: Path) -> Iterator[None]:
    """Serve with aiohttp."""

    async def handle(request: aiohttp.web.Request) -> aiohttp.web.Response:
        said = {"peer": request.remote, "scheme": request.scheme, "prefix": ""}
        return aiohttp.web.json_response(said)

    async def run(over: asyncio.Event) -> None:
        application = aiohttp.web.Application()
        application.router.add_get("/forged/", handle)
        runner = aiohttp.web.AppRunner(application)
        await runner.setup()
        await aiohttp.web.SockSite(runner, listener.dup()).start()
        await over.wait()
        await runner.cleanup()

    with on_a_loop(run):
        yield


PEER = "the peer's address"
NAME = "the kernel's name of the peer"
HARDENED = ('forwarder_headers = ""', "secure_scheme_headers = {}")


class Row(NamedTuple):
    """A row of the table: what is run, and what the application is then told."""

    server: str
    settings: str
    serve: Serve
    peer: str
    believes: str
    sends: bytes = FORGED


ROWS = [
    Row("gunicorn", "", gunicorn(), NAME, "https, SCRIPT_NAME"),
    Row("gunicorn", "`proxy_protocol = True`", gunicorn("proxy_protocol = True"), "127.0.0.1",
        "https, SCRIPT_NAME, any address in a PROXY line", PROXIED + FORGED),
    Row("gunicorn", '`forwarder_headers = ""`, `secure_scheme_headers = {}`', gunicorn(*HARDENED),
        NAME, ""),
    Row("uvicorn", '`loop="asyncio"`', uvicorn_with(loop="asyncio"), PEER, ""),
    Row("uvicorn", '`loop="uvloop"`', uvicorn_with(loop="uvloop"), "None", ""),
    Row("uvicorn", '`forwarded_allow_ips="*"`',
        uvicorn_with(loop="asyncio", forwarded_allow_ips="*"), "127.0.0.1",
        "https, any address in X-Forwarded-For"),
    Row("hypercorn", '`bind = "fd://N"`', hypercorn_on(inet=False), "None", ""),
    Row("hypercorn", "`as_inet()`", hypercorn_on(inet=True), PEER, ""),
    Row("waitress", "", waitress_on(inet=False), "localhost", ""),
    Row("waitress", "`as_inet()`", waitress_on(inet=True), PEER, ""),
    Row("werkzeug, http.server", "", werkzeug_server, PEER, ""),
    Row("Tornado", "", tornado_with(inet=False), "0.0.0.0", ""),
    Row("Tornado", "`as_inet()`", tornado_with(inet=True), PEER, ""),
    Row("Tornado", "`as_inet()`, `xheaders=True`", tornado_with(inet=True, xheaders=True),
        "127.0.0.1", "https, any address in X-Real-Ip"),
    Row("aiohttp", "", aiohttp_server, PEER, ""),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.server} {row.settings}")
def test_what_it_believes(
    server: TailnetHandle, client: TailnetHandle, tmp_path: Path, row: Row
) -> None:
    """The application is told just what the table says, whatever the peer forges."""
    with (
        server.listen(":80") as listener,
        row.serve(listener, tmp_path),
        client.dial("server:80", timeout=WAIT) as conn,
    ):
        conn.settimeout(WAIT)
        conn.sendall(row.sends)
        own = conn.getsockname()
        answer = b"".join(iter(lambda: conn.recv(1 << 16), b""))
    seen = json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])
    said = str(seen["peer"])
    if said == own[0]:
        said = PEER
    elif said.endswith("/{}:{}".format(*own)):
        said = NAME
    assert said == row.peer
    assert seen["scheme"] == ("https" if "https" in row.believes else "http")
    assert seen["prefix"] == ("/forged" if "SCRIPT_NAME" in row.believes else "")


def written(document: str) -> str:
    """Return the document with the table as the rows have it."""
    head, _, rest = document.partition("<!-- table -->\n")
    _, _, tail = rest.partition("<!-- end -->\n")
    lines = ["| server | with | the application's peer | what a peer can make it believe |"]
    lines.append("| --- | --- | --- | --- |")
    lines += [
        f"| {row.server} | {row.settings or 'defaults'} | {row.peer} | {row.believes or '-'} |"
        for row in ROWS
    ]
    return f"{head}<!-- table -->\n" + "\n".join(lines) + f"\n<!-- end -->\n{tail}"


def test_the_table_is_that_of_the_tests() -> None:
    """docs/servers.md has these rows."""
    document = DOCUMENT.read_text("utf-8")
    assert document == written(document), "python -m tests.test_servers"


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text("utf-8")), "utf-8")
