"""An OAuth proxy on a tailnet: machines call it without a credential, it adds the token.

The service reads its configuration, joins the tailnet, and forwards every GET to one upstream with
an access token that only it holds, and with the caller's name. Who may call is the tailnet's
policy; who did call is whois. Its states are

    ConnectingTailnet -> Starting -> Running -> Stopping

and it waits in ConnectingTailnet until it has the handle. Run it as

    TS_AUTHKEY=tskey-auth-... python proxy.py config.toml
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import socketserver
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tailnet import (
    Tailnet,
    TailnetAuthError,
    TailnetConfig,
    TailnetConfigError,
    TailnetConnectError,
    TailnetHandle,
    TailnetNotRunning,
    graceful,
)

log = logging.getLogger("oauth_proxy")


class State(enum.Enum):
    """Where the service is in its life."""

    CONNECTING_TAILNET = "ConnectingTailnet"
    STARTING = "Starting"
    RUNNING = "Running"
    STOPPING = "Stopping"


class Server(socketserver.ThreadingMixIn, HTTPServer):
    """A thread for each connection, on a listening socket that is given.

    Closing it waits for these threads, so that every request is answered.
    """


class Service:
    """The proxy. `on_state` hears of every state it enters."""

    def __init__(self, path: Path, on_state: Callable[[State], None] = lambda _: None) -> None:
        proxy = tomllib.loads(path.read_text()).get("proxy", {})
        self.upstream = proxy["upstream"].rstrip("/")
        self.token = (path.parent / proxy["token_file"]).read_text().strip()
        self.config = TailnetConfig.from_file(path)  # its [tailscale] section
        self.on_state = on_state
        self.stop_requested = threading.Event()

    def run(self) -> int:
        """Live through all states and return the exit code (sysexits.h)."""
        self.on_state(State.CONNECTING_TAILNET)
        try:
            with Tailnet(self.config) as tn:  # retries what is worth retrying by itself
                self.on_state(State.STARTING)
                with tn.listen(":80") as listener:
                    self.serve(tn, listener)
                return 0
        except TailnetConfigError as e:  # what is read on joining, as a file with the key
            log.error("the configuration cannot be used: %s", e)
            return os.EX_CONFIG
        except TailnetAuthError as e:  # another try would get the same answer
            log.error("the tailnet does not let us in: %s", e)
            return os.EX_NOPERM
        except TailnetConnectError as e:  # tried six times; the supervisor may restart us
            log.error("the control server cannot be reached: %s", e)
            return os.EX_TEMPFAIL
        except TailnetNotRunning as e:  # backend = "tailscaled" only
            log.error("no usable tailscaled: %s", e)
            return os.EX_UNAVAILABLE
        finally:
            self.on_state(State.STOPPING)

    def serve(self, tn: TailnetHandle, listener: Any) -> None:
        """Answer requests until stop()."""
        server = Server(("", 0), lambda *args: Forward(self, tn, *args), bind_and_activate=False)
        server.socket.close()
        server.socket = listener
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self.on_state(State.RUNNING)
        try:
            self.stop_requested.wait()
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def stop(self) -> None:
        """Leave Running, as SIGTERM and Ctrl-C do."""
        self.stop_requested.set()


class Forward(BaseHTTPRequestHandler):
    """One request, passed on with the token and the caller's name."""

    timeout = 10  # seconds for a caller to send a request, and to take some of the answer

    def __init__(self, service: Service, tn: TailnetHandle, *args: Any) -> None:
        self.service, self.tn = service, tn
        super().__init__(*args)

    def do_GET(self) -> None:
        """Fetch the path from upstream and return what it says."""
        caller = self.tn.whois(self.client_address[0])
        request = urllib.request.Request(self.service.upstream + self.path)
        request.add_header("Authorization", f"Bearer {self.service.token}")
        request.add_header("X-Tailnet-User", caller.user.login)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as e:
            status, body = e.code, e.read()
        except OSError as e:
            status, body = 502, f"upstream: {e}\n".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> int:
    """Run it until SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.INFO)
    if len(sys.argv) != 2:
        print("usage: python proxy.py CONFIG.toml", file=sys.stderr)
        return os.EX_USAGE
    try:
        service = Service(Path(sys.argv[1]), on_state=lambda state: log.info("%s", state.value))
    except KeyError as e:
        log.error("the configuration cannot be used: [proxy] has no %s", e)
        return os.EX_CONFIG
    except (OSError, ValueError) as e:  # a TailnetConfigError is a ValueError
        log.error("the configuration cannot be used: %s", e)
        return os.EX_CONFIG
    with graceful(), contextlib.suppress(KeyboardInterrupt):
        return service.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
