"""A dial: how a connection to a peer is made.

The library joins the socket that Python has from the start to the connection it makes, and says so
on its first line (ops.answer); the connection's bytes follow.

What comes of it is in _sockets/connection.py; how a connection is accepted, in
_sockets/listener.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .._engine import lib, ops
from .._engine.fd import Fd
from .._sockets.connection import Address, TailnetSocket, parse_address
from ..errors import TailnetTimeout
from .address import address_text

if TYPE_CHECKING:
    from .._engine.wait import Steps
    from .node import LocalNode

SocketOptions = Iterable[tuple[int, int, int | bytes]]

_NOWHERE = ("", 0)  # where a connection begins that is not made yet


def dial(
    node: LocalNode,
    address: str | Address,
    timeout: float | None,
    leave_timeout: float | None,
    options: SocketOptions | None = None,
) -> Steps[TailnetSocket]:
    """Connect; `leave_timeout` is the new socket's own, and `options` are set on it."""
    text = address_text(address)
    handle, deadline = node.handle(), ops.deadline_of(timeout)
    dialing = Fd(TailnetSocket, own=_NOWHERE, peer=_NOWHERE, keeps=node)
    try:
        with node.or_closed():
            lib.dial(handle, text, dialing)
            answer = yield from ops.answer(dialing, deadline, f"a connection to {text}")
        connection: TailnetSocket = dialing.made
        connection._begin(
            own=parse_address(answer["local"]),
            peer=parse_address(answer["remote"]),
            connection=answer["connection"],
            whole=answer["whole"],
            usual=answer["options"],
        )
        connection.settimeout(leave_timeout)
        for level, optname, value in options or ():
            connection.setsockopt(level, optname, value)
        dialing.release()
        return connection
    except TailnetTimeout as e:
        why = "its machine may be offline, or the tailnet's rules forbid it"
        raise TailnetTimeout(f"{e}; {why}") from None
    finally:
        dialing.cancel()  # of no effect once it is released
