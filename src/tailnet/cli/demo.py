"""`tailnet demo`: a service and its caller on a tailnet, in two processes.

`hello` is an ordinary http.server whose listening socket is the tailnet's; `caller` is an ordinary
http.client. The service says who called, the caller knows who it is, and the demo succeeds only
if the two agree. It prints each step as it happens.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from .. import Tailnet, TailnetConfig, TailnetHandle, TailnetListener
from ..testing import Testnet

CALL_TIMEOUT = 60.0  # seconds for the second process; on a real tailnet the first path is a relay


def run(*, real: bool) -> int:
    """Run the demo and return 0 only if the service named its caller rightly."""
    with contextlib.ExitStack() as stack:
        if real:
            if not (os.environ.get("TS_AUTHKEY") or os.environ.get("TS_AUTH_KEY")):
                print(
                    "tailnet demo --real needs TS_AUTHKEY, a reusable key of your tailnet.",
                    file=sys.stderr,
                )
                return 2
            config, caller, key = _real("hello"), {"hostname": "caller"}, {}
        else:
            with step("start an offline tailnet (control server, relay and STUN on 127.0.0.1)"):
                testnet = stack.enter_context(Testnet())
            config = testnet.config("hello")
            caller = {"hostname": "caller", "control_url": testnet.url}
            key = {"TS_AUTHKEY": testnet.auth_key}
        with step("join it as the service"):
            hello = stack.enter_context(Tailnet(config))
        print(f"    {hello.fqdn} is {hello.ip}")
        listener = stack.enter_context(hello.listen(":80"))
        stack.enter_context(serve(hello, listener))
        with step("join it as the caller, in a second process, and request the page by name"):
            answer = _second_process(caller, hello.hostname, key)
    return _report(answer, real=real)


def call(config: dict[str, Any]) -> int:
    """Be the second process: join, request the page, print what came and who we are."""
    service = config.pop("service")
    offline = "control_url" in config
    settings = TailnetConfig(ephemeral=True, **config) if offline else _real(config["hostname"])
    with Tailnet(settings) as tn:

        class Connection(http.client.HTTPConnection):
            def connect(self) -> None:
                self.sock = tn.create_connection((self.host, self.port), self.timeout)

        connection = Connection(service, timeout=CALL_TIMEOUT)
        connection.request("GET", "/")
        page = connection.getresponse().read().decode()
        connection.close()
        me = description(tn, str(tn.ip))
        print(json.dumps({"page": page, "me": me, "service": service}))
    return 0


def description(tn: TailnetHandle, ip: str) -> dict[str, str]:
    """Say who has an address, as the tailnet knows it."""
    who = tn.whois(ip)
    return {"node": who.node.name, "user": who.user.login, "ip": ip}


@contextlib.contextmanager
def serve(tn: TailnetHandle, listener: TailnetListener) -> Generator[None, None, None]:
    """Serve the page on a tailnet listener, with the standard library's server."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(
                {
                    "message": f"Hello from {tn.fqdn}!",
                    "you": description(tn, self.client_address[0]),
                }
            )
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing: the demo's own lines tell the story."""

    server = HTTPServer(("", 0), Page, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def step(text: str) -> Generator[None, None, None]:
    """Print a step when it starts and how long it took when it is done."""
    print(f"==> {text} ...", flush=True)
    start = time.monotonic()
    yield
    print(f"    done in {time.monotonic() - start:.2f} s", flush=True)


def _real(hostname: str) -> TailnetConfig:
    return TailnetConfig(hostname=f"tailnet-demo-{hostname}", ephemeral=True)


def _second_process(config: dict[str, str], service: str, key: dict[str, str]) -> dict[str, Any]:
    argument = json.dumps({**config, "service": service})
    done = subprocess.run(  # noqa: S603 - this very program
        [sys.executable, "-m", "tailnet", "demo", "--caller", argument],
        env={**os.environ, **key},  # a key is no argument: every local user can read those
        stdout=subprocess.PIPE,
        timeout=CALL_TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"tailnet demo: the caller failed with exit code {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _command() -> str:
    """Return how this program is run again, from here."""
    program, module = Path(sys.argv[0]).absolute(), ""
    if program.name != "tailnet":
        program, module = Path(sys.executable), " -m tailnet"
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    elif shutil.which(program.name) == str(program):
        program = Path(program.name)
    return f"{program}{module}"


def _report(answer: dict[str, Any], *, real: bool) -> int:
    page = json.loads(answer["page"])
    print(f"\nGET http://{answer['service']}/\n\n{json.dumps(page, indent=4)}\n")
    if page["you"] != answer["me"]:
        print(f"The page is wrong about its caller, who is {answer['me']}.", file=sys.stderr)
        return 1
    print("Right: that is the caller.")
    if not real:
        print(
            "\nThe same on your own tailnet, with a reusable auth key from the admin console:\n"
            f"    TS_AUTHKEY=tskey-auth-... {_command()} demo --real"
        )
    return 0
