"""Nothing leaves the machine: proved in a network namespace whose only way out is a tap of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.namespaces import NAMESPACE, namespaces_work

INSIDE = Path(__file__).parent / "hermetic" / "inside.py"


pytestmark = pytest.mark.skipif(
    not namespaces_work(), reason="needs Linux, /dev/net/tun, unshare(1), ip(8) and the right to"
)


def inside(scenario: str) -> list[str]:
    """Run a scenario of inside.py in a namespace, and return the packets that tried to leave."""
    command = [*NAMESPACE, sys.executable, str(INSIDE), scenario]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    packets: list[str] = json.loads(done.stdout)
    return packets


def test_the_tap_sees_what_leaves() -> None:
    """A packet to an address out there, and a question to a resolver there, are seen."""
    packets = inside("leak")
    assert any("192.0.2.1" in packet for packet in packets)
    assert any("192.0.2.53" in packet for packet in packets)


def test_an_offline_tailnet_stays_inside() -> None:
    """Nodes join, talk, ask for names and addresses that are not theirs, and leave: no packet."""
    assert inside("tailnet") == []


def test_a_control_server_that_does_not_resolve() -> None:
    """It is a TailnetConnectError; the resolver was asked for it, and nobody else."""
    assert {packet.split()[1] for packet in inside("no_resolver")} == {"192.0.2.53"}


@pytest.mark.parametrize("scenario", ["no_such_name", "nobody_listens"])
def test_a_control_server_that_is_not_there(scenario: str) -> None:
    """It is a TailnetConnectError at once; nobody else is asked where it may be."""
    assert inside(scenario) == []


def test_a_machine_without_a_network() -> None:
    """It is a TailnetConnectError that says so, and not that the server does not answer."""
    assert inside("no_network") == []


@pytest.mark.parametrize("scenario", ["loopback_alone", "loopback_offline"])
def test_a_control_server_on_the_loopback_needs_no_network(scenario: str) -> None:
    """Nodes join it and talk, although this machine has no network, and no testing knob is set."""
    assert inside(scenario) == []
