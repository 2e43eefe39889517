"""Greet whoever calls, by name; README.md packs this program into one file."""

from __future__ import annotations

import contextlib

from tailnet import Tailnet, TailnetConfig, graceful


def main() -> None:
    """Join, and serve until SIGTERM or Ctrl-C."""
    with graceful(), contextlib.suppress(KeyboardInterrupt):
        serve()


def serve() -> None:
    """Greet every caller."""
    config = TailnetConfig(hostname="greeter", ephemeral=True)  # the auth key is in TS_AUTHKEY
    with Tailnet(config) as tn, tn.listen(":80") as listener:
        print(f"{tn.fqdn} is {tn.ip}", flush=True)
        while True:
            conn, _ = listener.accept()
            with conn:
                conn.sendall(f"Hello {tn.whois(conn).node.hostname}!\n".encode())


if __name__ == "__main__":
    main()
