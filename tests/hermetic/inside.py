"""Run a scenario in this network namespace and print the packets that tried to leave it.

The namespace has a loopback and a TUN device with the default routes, and a resolver configured
behind it; whatever would leave a real machine arrives at the TUN device, and is printed as
"protocol destination". Called by test_hermetic.py, under `unshare --net`.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

import pytest

RESOLVER = "192.0.2.53"  # what resolv.conf says; behind the tap
NXDOMAIN = b"\x81\x83"  # the second 16 bits of an answer: there is no such name
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # <linux/if_tun.h>


def ip(*words: str) -> None:
    """Configure the network of this namespace."""
    subprocess.run(["ip", *words], check=True)


def resolv_conf(text: str) -> None:
    """Give this process, and its children, an /etc/resolv.conf of their own."""
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(text)
        file.flush()
        subprocess.run(["mount", "--bind", file.name, "/etc/resolv.conf"], check=True)


def open_tap() -> int:
    """Make the device that everything goes to which is not for this machine."""
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"out", IFF_TUN | IFF_NO_PI))
    ip("link", "set", "lo", "up")
    # No router solicitations of the kernel's own.
    ip("link", "set", "out", "addrgenmode", "none")
    ip("addr", "add", "192.0.2.99/32", "dev", "out")
    ip("link", "set", "out", "up")
    ip("route", "add", "default", "dev", "out")
    ip("-6", "addr", "add", "2001:db8::99/128", "dev", "out", "nodad")
    ip("-6", "route", "add", "default", "dev", "out")
    return tap


def describe(packet: bytes) -> str:
    """Say where a packet wants to go."""
    if packet[0] >> 4 == 4:
        return f"{packet[9]} {ipaddress.IPv4Address(packet[16:20])}"
    return f"{packet[6]} {ipaddress.IPv6Address(packet[24:40])}"


def leak() -> None:
    """Do what must be seen."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", ("192.0.2.1", 9))
    os.environ["RES_OPTIONS"] = "timeout:1 attempts:1"
    with contextlib.suppress(OSError):
        socket.getaddrinfo("example.com", 80)


def tailnet() -> None:
    """Join, talk, err and leave."""
    from tailnet import TailnetNameError, TailnetUnreachable
    from tailnet.testing import Testnet

    with Testnet() as net, net.tailnet("api") as api, net.tailnet("caller") as caller:
        with api.listen(":80") as listener, caller.dial("api:80") as out:
            conn, _ = listener.accept()
            with conn:
                conn.sendall(b"x" * 100_000)
                assert caller.whois(out).node.hostname == "api"
                assert len(out.recv(10)) == 10
        for name in ("nobody", "example.com", "nobody.offline.ts.net"):
            with contextlib.suppress(TailnetNameError):
                caller.dial(f"{name}:80", timeout=10)
                raise AssertionError(name)
        for address in ("192.0.2.1", "[2001:db8::1]", "8.8.8.8", "100.99.99.99"):
            with contextlib.suppress(TailnetUnreachable):
                caller.dial(f"{address}:80", timeout=10)
                raise AssertionError(address)
        # An outage: the node goes on trying, and must try nobody else.
        net.control.fault("refuse")
        seen = threading.Event()
        threading.Timer(2.0, seen.set).start()
        assert seen.wait(10)
        assert caller.status().state == "Running"


def fails_to_join(control_url: str, why: str, *, offline: bool = True) -> None:
    """See that this control server is a TailnetConnectError in time, which says what and why."""
    from tailnet import RetryPolicy, Tailnet, TailnetConfig, TailnetConnectError
    from tailnet.testing import Testnet

    config = TailnetConfig(
        hostname="lost",
        auth_key="tskey-none",
        ephemeral=True,
        control_url=control_url,
        connect_timeout=3,
        retry=RetryPolicy(retries=0),
    )
    with Testnet() if offline else contextlib.nullcontext():  # for its knobs
        began = time.monotonic()
        with contextlib.closing(Tailnet(config)) as tailnet:
            with pytest.raises(TailnetConnectError) as failed:
                tailnet.up()
            took = time.monotonic() - began
    assert took < 5, took
    assert control_url in str(failed.value), failed.value
    assert re.search(why, str(failed.value)), failed.value


def no_resolver() -> None:
    """Join a control server whose name nobody resolves: the resolver does not answer."""
    # In less than the 10 s after which Go's resolver gives up.
    fails_to_join("http://control.invalid", "no answer")


def no_such_name() -> None:
    """Join one whose name does not exist, says the resolver."""
    ip("addr", "add", f"{RESOLVER}/32", "dev", "lo")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((RESOLVER, 53))

        def answer() -> None:
            while True:
                question, asker = server.recvfrom(512)
                server.sendto(question[:2] + NXDOMAIN + question[4:], asker)

        threading.Thread(target=answer, daemon=True).start()
        fails_to_join("http://control.invalid", "no such host")


def nobody_listens() -> None:
    """Join one whose name resolves to this machine, where nobody listens at the port."""
    fails_to_join("http://localhost:1", "connection refused")


def no_network() -> None:
    """Join a control server elsewhere where this machine has nothing but its loopback."""
    ip("link", "set", "out", "down")
    ip("addr", "flush", "dev", "out")
    # Without an offline tailnet, whose knobs say that there is a network.
    # The kernel may say so before Tailscale's code has looked.
    said = "no network but its loopback|network is unreachable"
    fails_to_join("http://192.0.2.7", said, offline=False)


def on_loopback() -> None:
    """Join a control server on the loopback, and talk, without the knobs of an offline tailnet."""
    from tailnet.testing import Testnet
    from tailnet.testing._control import KNOBS

    with Testnet() as net:
        for knob in KNOBS:
            del os.environ[knob]
        with (
            net.tailnet("api") as api,
            net.tailnet("caller") as caller,
            api.listen(":80") as listener,
            caller.dial("api:80", timeout=20) as out,
            listener.accept()[0] as conn,
        ):
            conn.sendall(b"x")
            assert out.recv(1) == b"x"


def loopback_alone() -> None:
    """Do so where there is no other interface."""
    ip("link", "delete", "out")
    on_loopback()


def loopback_offline() -> None:
    """Do so where the other interface is down."""
    ip("link", "set", "out", "down")
    ip("addr", "flush", "dev", "out")
    on_loopback()


SCENARIOS: dict[str, Callable[[], None]] = {
    scenario.__name__: scenario
    for scenario in (
        leak,
        tailnet,
        no_resolver,
        no_such_name,
        nobody_listens,
        no_network,
        loopback_alone,
        loopback_offline,
    )
}


def main() -> None:
    """Run the scenario, then read what came."""
    resolv_conf(f"nameserver {RESOLVER}\n")
    tap = open_tap()
    SCENARIOS[sys.argv[1]]()
    os.set_blocking(tap, False)
    packets = []
    with contextlib.suppress(OSError):  # there is nothing more, or no device
        while packet := os.read(tap, 1 << 16):
            packets.append(describe(packet))
    print(json.dumps(packets))


main()
