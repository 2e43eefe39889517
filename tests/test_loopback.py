"""What peers reach of this machine's own ports, through each kind of node."""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import Any

import pytest

from tailnet import TailnetHandle, TailnetRefused
from tailnet.testing import Testnet
from tests.support.daemon import binaries
from tests.support.managed import HOW
from tests.support.nodes import acquaint
from tests.support.waiting import WAIT, eventually

WARNING = "peers reach what any program of this machine has there"


def reaches(client: TailnetHandle, node: TailnetHandle, private: socket.socket) -> bool:
    """Report whether a peer's connection arrives at a port of 127.0.0.1."""
    private.settimeout(WAIT)
    try:
        with client.dial((node.hostname, private.getsockname()[1]), timeout=WAIT):
            private.accept()[0].close()
    except TailnetRefused:
        return False
    return True


@pytest.mark.parametrize("how", ["embedded", "managed"])
def test_a_port_of_this_machine(
    net: Testnet, client: TailnetHandle, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A node in the process refuses it; through a managed tailscaled it is reached: that warns."""
    caplog.set_level(logging.INFO, "tailnet")
    managed = how == "managed"
    fields: dict[str, Any] = {**HOW, "tailscaled_path": binaries()[0]} if managed else {}
    with socket.create_server(("127.0.0.1", 0)) as private, net.tailnet(how, **fields) as node:
        acquaint(node, client)
        assert reaches(client, node, private) == managed
        with contextlib.closing(node.listen(":80")):
            assert reaches(client, node, private) == managed
        assert reaches(client, node, private) == managed
        if managed:
            eventually("it warns", lambda: WARNING in caplog.text)
            (warning,) = (r for r in caplog.records if WARNING in r.getMessage())
            assert (warning.levelno, warning.getMessage()[:9]) == (logging.WARNING, "[managed]")
        else:
            eventually("its lines come", lambda: "[embedded]" in caplog.text)
            assert WARNING not in caplog.text
