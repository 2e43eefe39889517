"""Addresses in the forms that programs have them in, as the text that the library takes.

Nothing here asks a node, or waits.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from typing import Any, cast

from .._sockets.connection import TailnetSocket, parse_peer_name
from .._text import quoted
from ..errors import TailnetConfigError


def address_text(address: Any) -> str:
    """Return "host:port" for what names an address: that, or (host, port) as sockets have it.

    Raises:
        TailnetConfigError: it is neither.
    """
    if isinstance(address, str):
        return address
    match address:
        case (str() | ipaddress.IPv4Address() | ipaddress.IPv6Address() as host, int(port), *_) if (
            port.bit_length() < 64  # else it cannot even be written
        ):
            host = str(host)
            return f"[{host}]:{port}" if ":" in host and "/" not in host else f"{host}:{port}"
        case (str() | ipaddress.IPv4Address() | ipaddress.IPv6Address() as host, str() as port, *_):
            help_ = "; the port must be a number"
            with contextlib.suppress(OSError, ValueError):  # a name that /etc/services lacks
                number = int(port) if port.isdecimal() else socket.getservbyname(port, "tcp")
                help_ += f": {(str(host), number)}"
        case int() as port if port is not True and port is not False:
            help_ = f'; port {port} of this node is ":{port}", and of another one "name:{port}"'
        case _:
            help_ = ""
    raise TailnetConfigError(
        f'address {quoted(address)}: want "host:port" or (host, port), a text and a number{help_}'
    )


def target_text(target: Any, asks: str = "whois") -> str:
    """Return the address of what a question is about; `asks` names the question in errors.

    Raises:
        TailnetConfigError: it has none.
    """
    # A server asks at every request, most often with one of the first two.
    if isinstance(target, TailnetSocket):
        target = _peer_of(target, asks)
    match target:
        case (str() as host, int(port)) if port >> 16 == 0:
            return host
        case _:
            pass
    if isinstance(target, socket.socket):
        target = _peer_of(target, asks)
    elif hasattr(target, "getpeername"):
        target = target.getpeername()
    elif hasattr(target, "get_extra_info"):  # an asyncio transport or StreamWriter
        target = target.get_extra_info("peername")
    if isinstance(target, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        return str(target)
    if (name := parse_peer_name(target)) is not None:  # of a plain socket, or one in C
        target = name.address
    if isinstance(target, str):
        return target
    if isinstance(target, (tuple, list)):
        pair = cast("tuple[Any, ...]", target)
        address_text(pair)  # for its error
        return str(pair[0])
    raise TailnetConfigError(
        f"{asks}: {quoted(target)} is no address of the tailnet, and no connection"
    )


def _peer_of(connection: socket.socket, asks: str) -> object:
    """Return a connection's peer, as its class or else the kernel names it."""
    try:
        if isinstance(connection, TailnetSocket):
            return connection.getpeername()
        # Not by its own getpeername: that of an SSLSocket made from an as_inet() view reads the
        # kernel's answer as an address of TCP, which it is not.
        with socket.socket(socket.AF_UNIX, fileno=os.dup(connection.fileno())) as plain:
            return plain.getpeername()
    except OSError as e:
        problem = f"{asks}: {connection!r} is not connected: {e.strerror}"
    raise TailnetConfigError(problem)
