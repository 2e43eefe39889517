"""What users' type checkers see of the public interface. Read by mypy and pyright, never run.

Every public method is here (a test of tests/test_exports.py holds it against the classes), as a
program would use it, with the type that must come out. `# type: ignore` is where a mistake must be
found: mypy fails on one that it does not need.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr
from typing_extensions import assert_never, assert_type

import tailnet
from tailnet import (
    AsyncCapture,
    AsyncTailnet,
    AsyncTailnetHandle,
    AsyncWatch,
    Capture,
    RetryPolicy,
    Tailnet,
    TailnetConfig,
    TailnetConfigError,
    TailnetConnectError,
    TailnetDialError,
    TailnetError,
    TailnetHandle,
    TailnetListener,
    TailnetListenError,
    TailnetLoginRequired,
    TailnetNameError,
    TailnetPeerNotFound,
    TailnetRefused,
    TailnetSocket,
    TailnetTimeout,
    Watch,
    models,
)
from tailnet.errors import Code, error_from_document
from tailnet.testing import ControlServer, ControlServerError, Testnet, TestNode

if not TYPE_CHECKING:
    raise ImportError("this file is for type checkers; nothing in it may run")

Address = tuple[str, int]


# --- the configuration ---


def configuration(path: Path) -> None:
    """Text, lists and mappings are taken where a field then holds something stricter."""
    config = TailnetConfig(
        hostname="api",
        auth_key="tskey-auth-x",
        auth_key_file="~/key",
        client_secret=SecretStr("x"),
        tags=["tag:a"],
        control_url="https://control",
        state_dir=path,
        backend="embedded",
        advertise_routes="10.0.0.0/8,fd00::/8",
        connect_timeout=5,
        retry={"retries": 1},
        log_level="debug",
    )
    assert_type(config.hostname, str)
    assert_type(config.auth_key, SecretStr | None)
    assert_type(config.auth_key_file, Path | None)
    assert_type(config.tags, tuple[str, ...])
    assert_type(config.control_url, str | None)
    assert_type(config.state_dir, Path | None)
    assert_type(config.advertise_routes, tuple[str, ...])
    assert_type(config.connect_timeout, float)
    assert_type(config.retry, RetryPolicy)
    assert_type(config.model_copy(update={"port": 1}), TailnetConfig)
    assert_type(TailnetConfig.from_file("tailnet.toml"), TailnetConfig)
    assert_type(TailnetConfig.from_file(path), TailnetConfig)
    assert_type(TailnetConfig.from_env(hostname="api"), TailnetConfig)
    assert_type(TailnetConfig.from_env({"TS_HOSTNAME": "api"}), TailnetConfig)
    assert_type(TailnetConfig.model_validate({"port": 1}), TailnetConfig)
    assert_type(TailnetConfig.model_validate_json("{}"), TailnetConfig)
    assert_type(TailnetConfig.model_validate_strings({"port": "1"}), TailnetConfig)
    assert_type(TailnetConfig.model_construct(port=1), TailnetConfig)
    assert_type(config.to_native(), dict[str, Any])
    assert_type(config.resolved_auth_key({}), str)
    assert_type(config.resolved_client_secret({}), str)
    assert_type(config.preauthorized, bool)
    assert_type(config.resolved_control_url({}), str)
    assert_type(config.resolved_state_dir({}), str)
    assert_type(config.resolved_socket(), str)
    assert_type(config.called(), str)
    assert_type(config.ignored(), str)
    policy = RetryPolicy(retries=3, first_delay=0.5, factor=2, max_delay=10, jitter=0)
    assert_type(policy.retries, int)
    assert_type(policy.delay(1, retry_after=2.5), float)
    TailnetConfig(tags={"tag:a"}, retry=policy, advertise_routes=(r for r in ("10.0.0.0/8",)))


def mistakes() -> None:
    """A field that is none, or a value of another type, is found before the program runs."""
    TailnetConfig(hostnam="api")  # type: ignore[call-arg]
    TailnetConfig(port="many")  # type: ignore[arg-type]
    TailnetConfig(backend="docker")  # type: ignore[arg-type]
    Tailnet().listen(":80")  # type: ignore[attr-defined]


# --- threads ---


def joins(config: TailnetConfig) -> None:
    """A Tailnet is made of a configuration, of fields or of both, and gives a handle."""
    tn = Tailnet(config, hostname="api")
    assert_type(tn.config, TailnetConfig)
    assert_type(tn.up(), TailnetHandle)
    assert_type(tn.up(timeout=30, on_login=print), TailnetHandle)
    assert_type(tn.close(), None)
    assert_type(tn.close(timeout=1.5), None)
    with Tailnet(hostname="api") as handle:
        assert_type(handle, TailnetHandle)
    with Tailnet().up(5.0) as handle:
        assert_type(handle, TailnetHandle)


def uses(tn: TailnetHandle) -> None:
    """A handle listens, dials and asks; what it returns is a socket or a model."""
    assert_type(tn.hostname, str)
    assert_type(tn.fqdn, str)
    assert_type(tn.ip, IPv4Address | IPv6Address)
    assert_type(tn.ips, tuple[IPv4Address | IPv6Address, ...])
    assert_type(tn.config, TailnetConfig)
    assert_type(tn.closed, bool)
    assert_type(tn.listen(("0.0.0.0", 0), backlog=5, timeout=1), TailnetListener)
    with tn.listen(":80") as listener:
        assert_type(listener, TailnetListener)
    assert_type(tn.dial(("api", 80)), TailnetSocket)
    with tn.dial("api:80", timeout=5) as conn:
        assert_type(conn, TailnetSocket)
    assert_type(tn.create_connection(("api", 80)), TailnetSocket)
    assert_type(tn.create_connection(("api", 80), 5, None, all_errors=True), TailnetSocket)
    nodelay = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    assert_type(tn.create_connection(("api", 80), socket_options=nodelay), TailnetSocket)
    assert_type(tn.is_own(("100.64.0.1", 80)), bool)
    assert_type(tn.whois(conn), models.WhoIs)
    assert_type(tn.whois("100.64.0.7", timeout=1), models.WhoIs)
    assert_type(tn.whois(tn.ip), models.WhoIs)
    assert_type(tn.status(timeout=1), models.Status)
    assert_type(tn.ping("api", kind="tsmp", timeout=1), models.Ping)
    with tn.capture("a.pcap") as capture:
        assert_type(capture, Capture)
        capture.wait(timeout=1)
    tn.capture(Path("a.pcap"), seconds=1).close()
    assert_type(tn.close(timeout=1), None)


def watches(tn: TailnetHandle) -> None:
    """A watch is an iterator of events."""
    for event in tn.watch():
        assert_type(event, models.Event)
    with tn.watch() as watch:
        assert_type(watch, Watch)
        assert_type(watch.next(timeout=1), models.Event)
        assert_type(next(watch), models.Event)
        assert_type(watch.close(), None)


def listens(listener: TailnetListener) -> None:
    """A listener is a socket, whose connections are TailnetSockets with the peer's address."""
    conn, peer = listener.accept()
    assert_type(conn, TailnetSocket)
    assert_type(peer, Address)
    assert_type(listener.getsockname(), Address)
    assert_type(listener.family, socket.AddressFamily)
    assert_type(listener.dup(), TailnetListener)
    assert_type(listener.as_inet(), TailnetListener)
    assert_type(listener.plain(), socket.socket)
    assert_type(listener.detach(), int)
    assert_type(listener.close(), None)
    either: socket.socket = listener
    assert_type(either.fileno(), int)


def talks(conn: TailnetSocket, context: ssl.SSLContext) -> None:
    """A connection is a socket: what takes one takes it."""
    assert_type(conn.getpeername(), Address)
    assert_type(conn.getsockname(), Address)
    assert_type(conn.family, socket.AddressFamily)
    assert_type(conn.send(b"x"), int)
    assert_type(conn.sendall(memoryview(b"x")), None)
    assert_type(conn.sendmsg([b"x", bytearray(b"y")]), int)
    assert_type(conn.recv(1), bytes)
    assert_type(conn.recv_into(bytearray(1)), int)
    conn.shutdown(2)
    assert_type(conn.recvfrom(1)[0], bytes)
    assert_type(conn.recvfrom_into(bytearray(1))[0], int)
    assert_type(conn.recvmsg(1)[0], bytes)
    assert_type(conn.recvmsg_into([bytearray(1)])[0], int)
    assert_type(conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), None)
    assert_type(conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), Any)
    assert_type(conn.makefile().readline(), str)
    assert_type(conn.dup(), TailnetSocket)
    assert_type(conn.detach(), int)
    assert_type(conn.close(), None)
    assert_type(context.wrap_socket(conn), ssl.SSLSocket)


# --- asyncio ---


async def joins_async(config: TailnetConfig) -> None:
    """As joins(), with await; `on_login` may be a coroutine function."""

    async def on_login(url: str) -> None:
        await asyncio.to_thread(print, url)

    tn = AsyncTailnet(config, hostname="api")
    assert_type(tn.config, TailnetConfig)
    assert_type(await tn.up(), AsyncTailnetHandle)
    assert_type(await tn.up(timeout=30, on_login=on_login), AsyncTailnetHandle)
    assert_type(await tn.up(on_login=print), AsyncTailnetHandle)
    await tn.close()
    await tn.close(timeout=1.5)
    async with AsyncTailnet(hostname="api") as handle:
        assert_type(handle, AsyncTailnetHandle)
    async with await AsyncTailnet().up(5.0) as handle:
        assert_type(handle, AsyncTailnetHandle)


async def uses_async(tn: AsyncTailnetHandle) -> None:
    """As uses(), with await; the sockets go into asyncio."""
    assert_type(tn.hostname, str)
    assert_type(tn.fqdn, str)
    assert_type(tn.ip, IPv4Address | IPv6Address)
    assert_type(tn.ips, tuple[IPv4Address | IPv6Address, ...])
    assert_type(tn.config, TailnetConfig)
    assert_type(tn.closed, bool)
    listener = await tn.listen(":80", backlog=5, timeout=1)
    assert_type(listener, TailnetListener)
    server = await asyncio.start_server(lambda _, writer: writer.close(), sock=listener)
    assert_type(server, asyncio.Server)
    conn = await tn.dial("api:80", timeout=5)
    assert_type(conn, TailnetSocket)
    reader, writer = await asyncio.open_connection(sock=conn)
    assert_type(await reader.readline(), bytes)
    assert_type(await tn.create_connection(("api", 80)), TailnetSocket)
    assert_type(await tn.create_connection(("api", 80), 5, None, all_errors=True), TailnetSocket)
    nodelay = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    assert_type(await tn.create_connection(("api", 80), socket_options=nodelay), TailnetSocket)
    assert_type(tn.is_own("100.64.0.1"), bool)
    assert_type(await tn.whois(writer), models.WhoIs)
    assert_type(await tn.whois(("100.64.0.7", 80), timeout=1), models.WhoIs)
    assert_type(await tn.status(timeout=1), models.Status)
    assert_type(await tn.ping("api", kind="tsmp", timeout=1), models.Ping)
    async with await tn.capture("a.pcap", seconds=1) as capture:
        assert_type(capture, AsyncCapture)
        await capture.wait(timeout=1)
    await capture.close()
    await tn.close(timeout=1)


async def watches_async(tn: AsyncTailnetHandle) -> None:
    """As watches(), with `async for`."""
    async for event in tn.watch():
        assert_type(event, models.Event)
    async with tn.watch() as watch:
        assert_type(watch, AsyncWatch)
        assert_type(await watch.next(timeout=1), models.Event)
        assert_type(await watch.__anext__(), models.Event)
        assert_type(watch.close(), None)


# --- what is told ---


def answers(who: models.WhoIs, status: models.Status) -> None:
    """Models have typed fields all the way down."""
    assert_type(who.user, models.User)
    assert_type(who.user.login, str)
    assert_type(who.node, models.Node)
    assert_type(who.node.ips, tuple[IPv4Address | IPv6Address, ...])
    assert_type(who.node.tags, tuple[str, ...])
    assert_type(who.node.online, bool | None)
    assert_type(status.self, models.Peer)
    assert_type(status.peers, tuple[models.Peer, ...])
    assert_type(status.peer("100.64.0.1"), models.Peer | None)
    assert_type(status.peer(("100.64.0.1", 80)), models.Peer | None)
    assert_type(status.peers[0].rx_bytes, int)
    assert_type(status.state, str)
    assert_type(status.health, tuple[str, ...])
    assert_type(tailnet.versions(), models.Versions)
    assert_type(tailnet.versions().tailscale, str)
    assert_type(tailnet.versions().wheel, Mapping[str, str] | None)
    assert_type(tailnet.versions().matches_wheel, bool | None)
    assert_type(tailnet.__version__, str)


def told(event: models.Event) -> str:
    """A match over the events is complete with these, and each knows its fields."""
    match event:
        case models.StateChanged(state=state):
            return state
        case models.LoginURL(url=url):
            return url
        case models.HealthChanged():
            assert_type(event.warnings, tuple[models.Health, ...])
            return event.warnings[0].text
        case models.PeersChanged():
            assert_type(event.changed, tuple[models.Peer, ...])
            return event.removed[0]
        case models.KeyExpiry(expired=expired):
            assert_type(expired, bool)
            return str(event.expiry)
        case models.Removed():
            return "removed"
        case models.EventsLost(count=count):
            return str(count)
        case _:
            assert_never(event)


def failures(tn: TailnetHandle) -> None:
    """Errors have their attributes, and are the builtins that they replace."""
    try:
        tn.dial("api:80")
    except TailnetLoginRequired as e:
        assert_type(e.url, str)
    except TailnetConnectError as e:
        assert_type(e.retry_after, float | None)
        assert_type(e.retryable, bool)
    except (TailnetDialError, TailnetListenError) as e:
        assert_type(e.errno, int | None)
    except TailnetError as e:
        assert_type(e.code, int)
        assert_type(e.message, str)
        assert_type(e.retryable, bool)
    assert_type(Code(7001), Code)
    assert_type(error_from_document({}), TailnetError)


def builtins(error: TailnetRefused, name: TailnetNameError, late: TailnetTimeout) -> None:
    """What takes a builtin's error takes the library's."""
    refused: ConnectionRefusedError = error
    resolved: socket.gaierror = name
    timeout: TimeoutError = late
    config: ValueError = TailnetConfigError("x")
    lookup: LookupError = TailnetPeerNotFound("x", code=Code.NOT_FOUND)
    errors: list[Exception] = [refused, resolved, timeout, config, lookup]
    raise errors[0]


# --- signals ---


def leave() -> None:
    """graceful() is a context manager and a decorator, for any signals."""
    with tailnet.graceful() as nothing:
        assert_type(nothing, None)
    with tailnet.graceful(signal.SIGTERM, signal.SIGHUP):
        pass

    @tailnet.graceful()
    def main() -> int:
        return 0

    assert_type(main(), int)
    tailnet.graceful("SIGTERM")  # type: ignore[arg-type]


# --- the offline tailnet ---


def offline() -> None:
    """A Testnet makes nodes of both faces, and says how another program joins it."""
    with Testnet(require_approval=True) as net:
        assert_type(net, Testnet)
        assert_type(net.control, ControlServer)
        assert_type(net.url, str)
        assert_type(net.auth_key, str)
        assert_type(net.domain, str)
        assert_type(net.config("api", tags=["tag:a"]), TailnetConfig)
        assert_type(net.tailnet("api", port=1), Tailnet)
        assert_type(net.async_tailnet("api"), AsyncTailnet)
        assert_type(net.environ(), dict[str, str])
        with net.tailnet("api") as tn:
            assert_type(tn, TailnetHandle)
    assert_type(net.start(), Testnet)
    assert_type(net.stop(), None)


def control(server: ControlServer) -> None:
    """A ControlServer does what a person, an admin or a broken network does."""
    with ControlServer(auth_key="", same_user=True, domain="a.ts.net") as entered:
        assert_type(entered, ControlServer)
    assert_type(server.start(), ControlServer)
    assert_type(server.url, str)
    assert_type(server.untrusted_url, str)
    assert_type(server.domain, str)
    assert_type(server.auth_key, str)
    assert_type(server.pid, int)
    assert_type(server.nodes(), tuple[TestNode, ...])
    assert_type(server.nodes()[0].ips, tuple[IPv4Address | IPv6Address, ...])
    assert_type(server.complete_login("http://login"), None)
    assert_type(server.approve(), None)
    assert_type(server.set_require_login(value=True), None)
    assert_type(server.set_require_approval(value=False), None)
    assert_type(server.expire_keys("api"), None)
    assert_type(server.extend_keys("api"), None)
    assert_type(server.set_tags("api", ["tag:a"]), None)
    assert_type(server.set_app_caps({"example.com/cap": [{"a": 1}]}), None)
    assert_type(server.edit_policy("api", {"example.com/cap": [{"a": 1}]}), None)
    assert_type(server.add_fake_nodes(3), None)
    assert_type(server.fault("rate_limit", retry_after=5), None)
    assert_type(server.fault("reject", message="no"), None)
    assert_type(server.add_one_time_key("tskey-auth-once"), None)
    assert_type(server.set_grantable_tags(["tag:a"]), None)
    assert_type(server.set_grantable_tags(None), None)
    assert_type(server.fault("status", status=503), None)
    assert_type(server.restart_relay(), None)
    assert_type(server.remove_node("api"), None)
    assert_type(server.stop(), None)
    server.fault("fire")  # type: ignore[arg-type]
    raise ControlServerError("x")
