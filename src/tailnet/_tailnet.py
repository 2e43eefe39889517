"""The synchronous face: `Tailnet`, not yet joined, and `TailnetHandle`, the live connection.

Written by tools/async_to_sync.py from _tailnet_async.py: edit that file.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ._engine import ops
from ._engine.wait import wait
from ._faces import (
    CAPTURE_END,
    CAPTURING,
    DEFAULT_TIMEOUT,
    WATCHING,
    HandleBase,
    TailnetBase,
    WhoIsTarget,
    for_with,
)
from ._node import asking, dialing, listening
from ._node.asking import PING_TIMEOUT, PingKind
from ._node.dialing import SocketOptions
from ._node.node import CLOSE_TIMEOUT, LocalNode, OnLogin
from ._sockets.connection import Address, TailnetSocket
from ._sockets.listener import TailnetListener
from .errors import TailnetClosed
from .models import Event, Ping, Status, WhoIs
from .models._events import parse_event

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Capture", "Tailnet", "TailnetHandle", "Watch"]


@for_with
class Tailnet(TailnetBase):
    """A tailnet to join: `with Tailnet(config) as tn`.

    Or `tn = Tailnet(config).up()`, and `tn.close()` at the end.

    Args:
        config: The configuration; without one, or on top of it, `fields` are TailnetConfig's.

    Raises:
        TailnetConfigError: a value cannot be used. Nothing was started.
    """

    _joins = "`with` and up() give"

    def up(self, timeout: float | None = None, *, on_login: OnLogin | None = None) -> TailnetHandle:
        """Join the tailnet and return the live connection; at once where it has joined.

        Args:
            timeout: Seconds for everything, retries included; None leaves it to the
                configuration's `connect_timeout` and `retry`.
            on_login: Called with the URL where a person must log in; up() then goes on waiting,
                for that and for an admin's approval.

        Raises:
            TailnetConfigError: a file or variable behind the configuration cannot be used.
            TailnetAuthError: the control server refuses the key or the node.
            TailnetLoginRequired: a person must log in at its `url`. The node stays pending: the
                next up() goes on with the same login.
            TailnetApprovalRequired: an admin must approve the machine. The node stays pending.
            TailnetConnectError: the control server cannot be reached, after all retries.
            TailnetNotRunning: backend="tailscaled", and there is no usable daemon.
            TailnetStateLocked: another node holds the state directory.
            TailnetTimeout: `timeout` passed; `__cause__` is the last failed attempt.
            TailnetClosed: this Tailnet was closed.

        up() may be called again after any of these, until close(). After a timeout or an
        interrupt the attempt goes on in the background: the next up() takes it over, and close()
        ends it. A key for one use is not lost to an attempt that ended early; with a state
        directory, this holds for the next process as well.
        """
        wait(self._node.up(timeout, on_login))
        return TailnetHandle(self._node)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Leave the tailnet, or end a pending attempt. Idempotent; see TailnetHandle.close."""
        wait(self._node.close(timeout))

    def __enter__(self) -> TailnetHandle:
        return self.up()

    def __exit__(self, *_: object) -> None:
        if self._node.is_ours():
            self.close()


@for_with
class TailnetHandle(HandleBase):
    """The live connection to a tailnet. Made by `Tailnet.up()`, or by entering one."""

    def listen(
        self,
        address: str | Address,
        *,
        backlog: int = 128,
        timeout: float | None = None,
    ) -> TailnetListener:
        """Listen for TCP connections of the tailnet, and return a real listening socket.

        Args:
            address: ":80" or "[::]:80" for every address of the node, "0.0.0.0:80" for its IPv4
                ones, "ip:port" for one; port 0 picks one (`getsockname()` tells). Or (host, port).
            backlog: How many connections may wait for accept(), and as many again for their
                places; beyond, peers are refused.
            timeout: Seconds for listening to begin.

        Raises:
            TailnetListenError: the port is taken (EADDRINUSE), or the address is not the node's
                (EADDRNOTAVAIL).
            TailnetConfigError: the address makes no sense.
            TailnetResourceError: no more descriptors.
            TailnetNotRunning: the tailscaled behind it is gone, or does not answer.
            TailnetClosed: the node was closed.

        After a failure or an interrupt nothing is left of it. For TLS wrap each accepted
        connection: a wrapped listener shows no peer, and its port is given back by closing the
        TailnetListener.
        """
        begins = listening.listen(self._node, address, backlog, timeout, blocking=True)
        return wait(begins)

    def dial(self, address: str | Address, *, timeout: float | None = None) -> TailnetSocket:
        """Connect to a peer and return a real connected, blocking socket.

        Args:
            address: "host:port" or (host, port); the host is a name of the tailnet, short or
                fully qualified, or an IP address.
            timeout: Seconds for the connection to be made; None leaves it to TCP.

        Raises:
            TailnetRefused: the peer refuses.
            TailnetUnreachable: not on the tailnet, or no answer.
            TailnetNameError: the tailnet knows no such name.
            TailnetDialError: any other failure; `errno` says which.
            TailnetResourceError: no more descriptors.
            TailnetConfigError: the address makes no sense.
            TailnetTimeout: `timeout` passed.
            TailnetAuthError: this node is no longer logged in.
            TailnetConnectError: this node does not run just now.
            TailnetNotRunning: the tailscaled behind it is gone, or does not answer.
            TailnetClosed: the node was closed.

        After a failure or an interrupt nothing is left of it.
        """
        return wait(dialing.dial(self._node, address, timeout, None))

    def create_connection(
        self,
        address: Address,
        timeout: float | None = DEFAULT_TIMEOUT,
        source_address: Address | None = None,
        socket_options: SocketOptions | None = None,
        *,
        all_errors: bool = False,
    ) -> TailnetSocket:
        """Connect as `socket.create_connection` does; the socket keeps the timeout.

        `source_address` and `all_errors` are there for callers that pass them; a node has one
        address of each family, and a name one address. A timeout of 0 has passed at once: a
        connection is not begun in the background. `socket_options` is urllib3's: (level, name,
        value) of what to set on the socket.

        Raises: as dial(), and OSError for an option that cannot be set.
        """
        if timeout is DEFAULT_TIMEOUT:
            timeout = socket.getdefaulttimeout()
        return wait(dialing.dial(self._node, address, timeout, timeout, socket_options))

    def whois(self, target: WhoIsTarget, *, timeout: float | None = None) -> WhoIs:
        """Say who is behind an address of the tailnet.

        An answer may be a second old: what an edited policy takes away is gone from it then.

        Args:
            target: An accepted connection (also when wrapped in TLS), a peer address as accept()
                returns it, an IP address, a name of the tailnet, or an asyncio transport or
                StreamWriter.
            timeout: Seconds; most answers come from a cache.

        Raises:
            TailnetPeerNotFound: nobody on the tailnet has that address or name.
            TailnetConfigError: `target` has no address, or is not connected.
            TailnetTimeout: `timeout` passed.
            TailnetNotRunning: the tailscaled behind it is gone, or does not answer.
            TailnetClosed: the node was closed.
        """
        return wait(asking.whois(self._node, target, timeout))

    def status(self, *, timeout: float | None = None) -> Status:
        """Return the state of the node and of the peers it sees.

        Raises:
            TailnetTimeout: `timeout` (seconds) passed.
            TailnetNotRunning: the tailscaled behind it is gone, or does not answer.
            TailnetClosed: the node was closed.
        """
        return wait(asking.status(self._node, timeout))

    def ping(
        self,
        target: WhoIsTarget,
        *,
        kind: PingKind = "disco",
        size: int = 0,
        timeout: float | None = PING_TIMEOUT,
    ) -> Ping:
        """Ask a peer for an answer, and return how long the round trip took.

        Args:
            target: A peer's name on the tailnet or its IP address, or what whois() takes.
            kind: "disco" asks Tailscale's code for the path it has; "tsmp" goes through WireGuard
                and "icmp" through the peer's network stack as well; "peerapi" asks its HTTP API.
            size: Bytes to which a disco ping is padded, to try a path's MTU; 0 pads nothing.
            timeout: Seconds; the ping is sent again each second.

        Raises:
            TailnetTimeout: no answer came.
            TailnetUnreachable: no peer has that address.
            TailnetNameError: the tailnet knows no such name.
            TailnetConfigError: the kind or the size makes no sense, or the target is this node.
            TailnetNotRunning: the tailscaled behind it is gone, or does not answer.
            TailnetClosed: the node was closed.
        """
        return wait(asking.ping(self._node, target, kind, size, timeout))

    def watch(self) -> Watch:
        """Return what changes, as an iterator of events that starts with how things are.

        Raises:
            TailnetClosed: the node was closed.
        """
        return Watch(self._node)

    def capture(self, path: str | os.PathLike[str], *, seconds: float | None = None) -> Capture:
        """Begin to write the packets that this node sends and receives to a file.

        The file has pcap's format, with Tailscale's link type 147: `tailscale debug capture` writes
        the same, and Tailscale's dissector makes Wireshark read it. Packets are whole, and as they
        are before encryption and after decryption. A tailscaled may say that it captures a moment
        before it does.

        Args:
            path: The file. It is emptied where it exists; a new one is for this user alone.
            seconds: How long; None is until close(), or the end of `with`.

        Raises:
            OSError: the file cannot be opened.
            TailnetConfigError: it is no regular file, or `seconds` makes no sense, or this node is
                being captured already.
            TailnetUnsupported: the tailscaled behind it does not let this user capture.
            TailnetNotRunning: the tailscaled behind it is gone, or does not answer.
            TailnetClosed: the node was closed.
        """
        return Capture(wait(asking.capture(self._node, path, seconds)))

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Leave the tailnet. Idempotent.

        No connection is accepted from now on; what was written to the open ones is delivered,
        and their peers see them end. After `timeout` seconds those left are cut off. Listeners
        and watches end. An ephemeral node logs out. An interrupt does not stop it: it goes on in
        the background, and the interpreter waits for it before it ends. A process killed by SIGKILL
        or by the default action of SIGTERM does none of this; see `tailnet.graceful()`.

        Raises:
            TailnetForked: this is a forked child; the node is its parent's.
        """
        wait(self._node.close(timeout))

    def __enter__(self) -> Self:
        if self._node.closed:
            raise TailnetClosed(f"node {self._node.name!r} was closed")
        return self

    def __exit__(self, *_: object) -> None:
        if self._node.is_ours():
            self.close()


@for_with
class Watch(Iterator[Event]):
    """The events of a node; see `tailnet.models`. Ends when the node is closed, or by close().

    A reader that falls behind gets EventsLost, and then how things are, from the beginning.
    """

    def __init__(self, node: LocalNode) -> None:
        self._lines = asking.watch(node)

    def next(self, timeout: float | None = None) -> Event:
        """Return the next event.

        Raises:
            TailnetTimeout: `timeout` (seconds) passed. Nothing is lost; ask again.
            StopIteration: the node was closed, or close() called. (In a generator, catch it:
                Python makes it a RuntimeError there.)
        """
        line = wait(self._lines.next(ops.deadline_of(timeout), WATCHING))
        if line is None:
            raise StopIteration
        return parse_event(line)

    def __next__(self) -> Event:
        return self.next()

    def close(self) -> None:
        """End it, also for a thread that waits in it. Idempotent."""
        self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._lines!r}>"

    def __del__(self) -> None:
        if hasattr(self, "_lines"):
            self.close()


@for_with
class Capture:
    """A capture of a node's packets that goes on; TailnetHandle.capture begins it.

    `with` ends it. Dropping it ends it too, without waiting for the last packets.
    """

    def __init__(self, session: ops.Session) -> None:
        self._session = session

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it has ended: its `seconds` have passed, or the node was closed.

        Raises:
            TailnetTimeout: `timeout` (seconds) passed; the capture goes on.
            TailnetError: what ended it, such as a full disk. What was written before stays.
        """
        wait(self._session.wait(ops.deadline_of(timeout), CAPTURING))

    def close(self) -> None:
        """End it, and wait until the file has all packets. Idempotent.

        Raises:
            TailnetError: as wait().
        """
        ending = self._session.end(ops.deadline_of(CAPTURE_END), CAPTURING)
        wait(ending)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._session!r}>"
