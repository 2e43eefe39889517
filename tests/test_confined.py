"""A node where this process may not have everything: sockets, addresses, memory.

Each program runs in a process of its own, for such limits are not taken back.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import resource
import selectors
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from tailnet import (
    RetryPolicy,
    Tailnet,
    TailnetConfig,
    TailnetConnectError,
    TailnetHandle,
    TailnetResourceError,
    TailnetSocket,
    TailnetUnsupported,
)
from tailnet._engine import limits
from tailnet.testing import Testnet

MIB = 1 << 20


@pytest.fixture(scope="module")
def own_net() -> Iterator[Testnet]:
    """An offline tailnet without a node of this process on it."""
    with Testnet() as testnet:
        yield testnet


def start(
    net: Testnet, program: Callable[..., None], *arguments: object, within: str = "", **env: str
) -> subprocess.Popen[str]:
    """Run one of the programs below on a tailnet, after a line of shell."""
    words = [sys.executable, "-m", "tests.test_confined", program.__name__, *map(str, arguments)]
    return subprocess.Popen(
        ["sh", "-c", f'{within or ":"} && exec "$@"', "sh", *words],
        env={**os.environ, **net.environ(), "TS_EPHEMERAL": "true", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(net: Testnet, program: Callable[..., None], *arguments: object, within: str = "") -> str:
    """Run a program to its end, and return what it printed."""
    with start(net, program, *arguments, within=within) as process:
        out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, "")
    return out.strip()


def talk(tn: TailnetHandle, count: int = 1, size: int = 1) -> None:
    """Have a node move bytes to itself over some connections."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(tn.listen(":80"))
        for _ in range(count):
            near = stack.enter_context(tn.dial((str(tn.ip), 80), timeout=20))
            far = stack.enter_context(listener.accept()[0])
            sending = threading.Thread(target=far.sendall, args=[bytes(size)])
            sending.start()
            left = size
            while left:
                left -= len(near.recv(left))
            sending.join()


# --- address families ---

SOCKET = {"x86_64": 41, "aarch64": 198}  # the number of socket(2)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2  # <linux/prctl.h>
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # <linux/bpf_common.h>
ALLOW, ERRNO = 0x7FFF0000, 0x00050000  # <linux/seccomp.h>


def deny(family: int, answer: int) -> None:
    """Have socket(2) of this family fail, as systemd's RestrictAddressFamilies does."""
    lines = [
        (LOAD, 0, 0, 0),  # the number of the system call
        (JUMP_IF_EQUAL, 0, 3, SOCKET[os.uname().machine]),
        (LOAD, 0, 0, 16),  # its first argument
        (JUMP_IF_EQUAL, 0, 1, family),
        (RETURN, 0, 0, ERRNO | answer),
        (RETURN, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
    program = ctypes.create_string_buffer(
        struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(code))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0
    ):
        raise OSError(ctypes.get_errno(), "no seccomp")


def without_family(name: str, answer: str) -> None:
    """Join where sockets of a family are denied, and say what came of it."""
    deny(getattr(socket, name), getattr(errno, answer))
    with contextlib.closing(Tailnet(TailnetConfig.from_env(hostname="confined"))) as tailnet:
        try:
            talk(tailnet.up())
        except TailnetUnsupported as e:
            print(e)


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")
@pytest.mark.parametrize(
    ("family", "answer"),
    [
        ("AF_NETLINK", "EAFNOSUPPORT"),  # as systemd answers
        ("AF_NETLINK", "EPERM"),  # as container runtimes do
        ("AF_INET", "EAFNOSUPPORT"),
        ("AF_UNIX", "EAFNOSUPPORT"),
    ],
)
def test_an_address_family_that_is_denied(own_net: Testnet, family: str, answer: str) -> None:
    """The error names the family, and what to write into the unit; it comes before anything."""
    said = run(own_net, without_family, family, answer)
    assert said.startswith(f"this process may not open an {family} socket, which a node needs ")
    assert os.strerror(getattr(errno, answer)).lower() in said
    assert "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK" in said


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")
def test_a_node_needs_no_ipv6(own_net: Testnet) -> None:
    """A node joins and talks where AF_INET6 is denied."""
    assert run(own_net, without_family, "AF_INET6", "EAFNOSUPPORT") == ""


# --- address space ---


def too_little() -> None:
    """Join under a limit; then raise that, and join."""
    with contextlib.closing(Tailnet(TailnetConfig.from_env(hostname="confined"))) as tailnet:
        try:
            tailnet.up()
        except TailnetResourceError as e:
            print(e.errno, "tailnet._native" in sys.modules, e)
        for limit in limits.LIMITS.values():
            resource.setrlimit(limit.number, (resource.RLIM_INFINITY,) * 2)
        talk(tailnet.up())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps to these limits")
@pytest.mark.parametrize(("option", "kib"), [("v", 1_500_000), ("d", 300_000)])
def test_a_limit_that_go_would_not_survive(own_net: Testnet, option: str, kib: int) -> None:
    """It is a TailnetResourceError before the library is loaded; with more room the node joins."""
    said = run(own_net, too_little, within=f"ulimit -S -{option} {kib}")
    assert said.startswith(f"{errno.ENOMEM} False `ulimit -{option} {kib}` lets this process have")
    assert f"`ulimit -{option} unlimited`" in said


def just_enough(option: str) -> None:
    """Run a node with just what check() asks for."""
    limit = limits.LIMITS[option]
    a_module_more = 64 * MIB
    enough = limits.used()[limit.used] + limit.needed + a_module_more
    resource.setrlimit(limit.number, (enough, enough))
    with Tailnet(TailnetConfig.from_env(hostname="confined")) as tn:
        talk(tn, count=20, size=MIB)
    print("works")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps to these limits")
@pytest.mark.parametrize("option", ["ulimit -v", "ulimit -d"])
def test_what_is_asked_for_is_enough(own_net: Testnet, option: str) -> None:
    """A node joins, and moves a megabyte each over 20 connections, with what check() asks for."""
    assert run(own_net, just_enough, option) == "works"


# --- memory ---


def most_memory() -> int:
    """Return the most memory this program has had, in MiB. getrusage() counts its parent too."""
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def fail(count: int) -> None:
    """Fail to join, again and again; print the most memory this process had."""
    nobody = TailnetConfig(
        hostname="confined",
        auth_key="tskey-none",
        ephemeral=True,
        control_url="http://127.0.0.1:1",
        retry=RetryPolicy(retries=0),
    )
    with contextlib.closing(Tailnet(nobody)) as tailnet:
        for _ in range(int(count)):
            with contextlib.suppress(TailnetConnectError):
                tailnet.up()
    print(most_memory())


@pytest.mark.timeout(200)
def test_300_failed_joins(own_net: Testnet) -> None:
    """A process that fails to join 300 times never has more than 120 MiB."""
    assert int(run(own_net, fail, 300)) < 120


def visit(ip: str) -> None:
    """Receive a gigabyte, then join a hundred times."""
    with (
        Tailnet(TailnetConfig.from_env(hostname="confined")) as tn,
        tn.dial((ip, 80), timeout=20) as near,
    ):
        buffer, left = bytearray(MIB), 1024 * MIB
        while left:
            left -= near.recv_into(buffer) or sys.exit("cut off")
    for _ in range(100):
        Tailnet(TailnetConfig.from_env(hostname="again")).up().close()


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """Make a control group below ours with a memory limit, of whichever version there is."""
    groups = Path("/proc/self/cgroup").read_text("ascii")
    one, two = re.search(r":memory:(.*)", groups), re.search(r"^0::(.*)", groups, re.MULTILINE)
    roots = [(Path(f"/sys/fs/cgroup/memory{one[1]}"), "memory.limit_in_bytes")] if one else []
    roots += [(Path(f"/sys/fs/cgroup{two[1]}"), "memory.max")] if two else []
    for root, file in roots:
        group = root / f"tailnet-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / file).exists():
                (group / file).write_text(str(limit), "ascii")
                yield group
                return
        finally:
            group.rmdir()
    pytest.skip("needs the right to make a control group with a memory limit")


@pytest.mark.timeout(240)
def test_a_control_group_of_192_mib(own_net: Testnet) -> None:
    """A node moves 1 GiB and joins 100 times in it, and is not killed."""
    with (
        own_net.tailnet("peer") as tn,
        tn.listen(":80") as listener,
        memory_group(192 * MIB) as group,
    ):
        inside = f"echo $$ > {group}/cgroup.procs"
        with start(own_net, visit, tn.ip, within=inside) as process:
            with listener.accept()[0] as conn, contextlib.suppress(OSError):
                for _ in range(1024):
                    conn.sendall(bytes(MIB))
            _, err = process.communicate(timeout=200)
        assert (process.returncode, err) == (0, "")


UNREAD = 1000  # connections
SENT = 512 << 10  # bytes that the peer of each one wants to send


def never_read() -> None:
    """Accept connections and read nothing; after one more, print the memory it took, in MiB."""
    with (
        Tailnet(TailnetConfig.from_env(hostname="deaf")) as tn,
        tn.listen(":80", backlog=1024) as listener,
    ):
        before = most_memory()
        print(tn.ip, flush=True)
        with contextlib.ExitStack() as stack:
            for _ in range(UNREAD):
                stack.enter_context(listener.accept()[0])
            print("accepted", flush=True)
            last = listener.accept()[0]
            print(before, most_memory(), flush=True)
            # They work as any: what was sent is all there.
            read = b""
            while len(read) < SENT and (part := last.recv(SENT)):
                read += part
            print(len(read))
            last.close()


def send_all(connections: list[TailnetSocket], size: int) -> None:
    """Send on all of them what there is room for, until there has been none for a second."""
    left = dict.fromkeys(connections, size)
    with selectors.DefaultSelector() as selector:
        for each in connections:
            each.setblocking(False)
            selector.register(each, selectors.EVENT_WRITE)
        while ready := selector.select(1.0):
            for key, _ in ready:
                conn = cast("TailnetSocket", key.fileobj)
                with contextlib.suppress(BlockingIOError):
                    left[conn] -= conn.send(bytes(min(left[conn], 16 << 10)))
                if not left[conn]:
                    selector.unregister(conn)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("limit", [None, 256 * MIB], ids=["unlimited", "256 MiB"])
@pytest.mark.timeout(200)
def test_a_thousand_connections_that_nobody_reads(own_net: Testnet, limit: int | None) -> None:
    """They take no more than docs/performance.md says, also where memory is short."""
    with contextlib.ExitStack() as stack:
        within = ""
        if limit is not None:
            within = f"echo $$ > {stack.enter_context(memory_group(limit))}/cgroup.procs"
        tn = stack.enter_context(own_net.tailnet("talker"))
        process = stack.enter_context(start(own_net, never_read, within=within))
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stderr is not None
        address = (process.stdout.readline().strip(), 80)
        held = [stack.enter_context(tn.dial(address, timeout=20)) for _ in range(UNREAD)]
        assert process.stdout.readline() == "accepted\n"
        send_all(held, SENT)
        with tn.dial(address, timeout=20) as last:
            before, most = map(int, process.stdout.readline().split())
            last.sendall(bytes(SENT))
            out, err = process.communicate(timeout=60)
        assert (process.returncode, err, out.strip()) == (0, "", str(SENT))
        assert most - before < 200


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
