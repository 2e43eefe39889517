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
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable

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


def resolve() -> None:
    """Join a control server whose name nobody can resolve."""
    import time

    from tailnet import RetryPolicy, Tailnet, TailnetConnectError
    from tailnet.testing import Testnet

    with Testnet() as net:  # for its knobs
        began = time.monotonic()
        tailnet = Tailnet(
            net.config("lost", control_url="http://control.invalid", retry=RetryPolicy(retries=0))
        )
        with contextlib.closing(tailnet), contextlib.suppress(TailnetConnectError):
            tailnet.up()
            raise AssertionError("joined")
        assert time.monotonic() - began < 15, time.monotonic() - began


SCENARIOS: dict[str, Callable[[], None]] = {"leak": leak, "tailnet": tailnet, "resolve": resolve}


def main() -> None:
    """Run the scenario, then read what came."""
    resolv_conf("nameserver 192.0.2.53\n")
    tap = open_tap()
    SCENARIOS[sys.argv[1]]()
    os.set_blocking(tap, False)
    packets = []
    with contextlib.suppress(BlockingIOError):
        while packet := os.read(tap, 1 << 16):
            packets.append(describe(packet))
    print(json.dumps(packets))


main()
