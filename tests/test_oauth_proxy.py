"""examples/oauth_proxy walks through every state, on an offline tailnet."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from tailnet import TailnetRefused
from tailnet.testing import Testnet
from tests.support.threads import finished, started
from tests.support.waiting import WAIT, eventually

EXAMPLE = Path(__file__).parent.parent / "examples" / "oauth_proxy" / "proxy.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """Return the example as a module."""
    spec = importlib.util.spec_from_file_location("oauth_proxy", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def upstream() -> Iterator[str]:
    """Run an HTTP server that answers with what it was sent, and return its URL."""

    class Echo(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            lines = [self.path, self.headers["Authorization"], self.headers["X-Tailnet-User"]]
            body = "\n".join(lines).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Echo) as url:
        yield url


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run an HTTP server and return its URL."""
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = started(server.serve_forever)
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        finished(thread)


def write_config(path: Path, upstream: str, **tailscale: object) -> Path:
    """Write the service's two files and return the configuration's path."""
    lines = [
        f"{k} = {str(v).lower() if isinstance(v, (bool, int)) else repr(v)}"
        for k, v in tailscale.items()
    ]
    text = "\n".join(
        ["[tailscale]", *lines, "[proxy]", f'upstream = "{upstream}"', 'token_file = "token"']
    )
    config = path / "config.toml"
    config.write_text(text)
    (path / "token").write_text("t0ken\n")
    return config


def test_it_runs_and_stops_through_all_four_states(
    example: ModuleType, upstream: str, tmp_path: Path
) -> None:
    """A caller's request reaches upstream with the token and the caller's name; then it stops."""
    with Testnet() as net, net.tailnet("caller") as caller:
        (tmp_path / "auth.key").write_text(net.auth_key + "\n")
        path = write_config(
            tmp_path,
            upstream,
            hostname="oauth-proxy",
            control_url=net.url,
            auth_key_file="auth.key",
            ephemeral=True,
        )
        states: list[str] = []
        running = threading.Event()

        def on_state(state: object) -> None:
            states.append(state.value)  # type: ignore[attr-defined]
            if states[-1] == "Running":
                running.set()

        service = example.Service(path, on_state)
        codes: list[int] = []
        thread = started(lambda: codes.append(service.run()))
        assert running.wait(30)
        client = http.client.HTTPConnection("oauth-proxy")
        client.sock = caller.create_connection(("oauth-proxy", 80), timeout=30)
        client.request("GET", "/things?n=1")
        body = client.getresponse().read().decode().split("\n")
        client.close()
        assert body == ["/things?n=1", "Bearer t0ken", caller.whois(str(caller.ip)).user.login]
        service.stop()
        thread.join(30)
        assert codes == [0]
        assert states == ["ConnectingTailnet", "Starting", "Running", "Stopping"]


def walk(example: ModuleType, config: Path) -> tuple[list[str], int]:
    """Run a service that cannot join, and return its states and its exit code."""
    states: list[str] = []
    service = example.Service(config, lambda state: states.append(state.value))
    code: int = service.run()
    return states, code


def test_a_bad_key_stops_it_for_good(example: ModuleType, tmp_path: Path) -> None:
    """TailnetAuthError is not retried: from ConnectingTailnet straight to Stopping."""
    with Testnet() as net:
        (tmp_path / "auth.key").write_text("not-the-key\n")
        path = write_config(
            tmp_path,
            "http://127.0.0.1:9",
            hostname="p",
            control_url=net.url,
            auth_key_file="auth.key",
            ephemeral=True,
        )
        assert walk(example, path) == (["ConnectingTailnet", "Stopping"], os.EX_NOPERM)


def test_an_unreachable_control_server_is_a_temporary_failure(
    example: ModuleType, tmp_path: Path
) -> None:
    """TailnetConnectError ends it after its retries, with the code a supervisor restarts on."""
    with Testnet() as net:  # for the knobs that keep the node's code on this machine
        (tmp_path / "auth.key").write_text(net.auth_key)
        path = write_config(
            tmp_path,
            "http://127.0.0.1:9",
            hostname="p",
            control_url="http://127.0.0.1:9",
            auth_key_file="auth.key",
            ephemeral=True,
        )
        path.write_text(path.read_text() + "\n[tailscale.retry]\nretries = 1\nfirst_delay = 0.01\n")
        assert walk(example, path) == (["ConnectingTailnet", "Stopping"], os.EX_TEMPFAIL)


def test_an_absent_tailscaled_is_told_from_the_other_two(
    example: ModuleType, tmp_path: Path
) -> None:
    """TailnetNotRunning comes from the sidecar backend where there is no daemon."""
    with Testnet():
        path = write_config(
            tmp_path,
            "http://127.0.0.1:9",
            hostname="p",
            backend="tailscaled",
            tailscaled_socket=str(tmp_path / "none"),
        )
        assert walk(example, path) == (["ConnectingTailnet", "Stopping"], os.EX_UNAVAILABLE)


def test_sigterm_stops_it_when_it_has_answered(tmp_path: Path) -> None:
    """As a program: the request under way is answered, then it walks to Stopping and exits 143."""
    asked, released = threading.Event(), threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            assert released.wait(WAIT)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"late")

        def log_message(self, format: str, *args: object) -> None:
            pass

    def refused() -> bool:
        try:
            caller.dial("stopped:80", timeout=WAIT).close()
        except TailnetRefused:
            return True
        return False

    with serving(Slow) as upstream, Testnet() as net, net.tailnet("caller") as caller:
        (tmp_path / "auth.key").write_text(net.auth_key + "\n")
        path = write_config(
            tmp_path,
            upstream,
            hostname="stopped",
            control_url=net.url,
            auth_key_file="auth.key",
            ephemeral=True,
        )
        with subprocess.Popen(
            [sys.executable, EXAMPLE, path], stderr=subprocess.PIPE, text=True
        ) as program:
            assert program.stderr is not None
            assert any("Running" in line for line in program.stderr)
            eventually("they met", lambda: "stopped" in {p.hostname for p in caller.status().peers})
            with caller.dial("stopped:80", timeout=WAIT) as conn, conn.makefile("rb") as answer:
                conn.settimeout(WAIT)
                conn.sendall(b"GET /late HTTP/1.1\r\n\r\n")
                assert asked.wait(WAIT)
                program.terminate()
                eventually("it accepts no more", refused)
                released.set()
                assert answer.read().endswith(b"late")
            _, err = program.communicate(timeout=WAIT)
        assert program.returncode == 128 + signal.SIGTERM
        assert err.endswith("Stopping\n")
