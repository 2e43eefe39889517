"""What a program asks of a node that has joined: one generator for each operation.

Rules of this file:

- A function here is a generator of the protocol in _wait.py; both faces run it, and add nothing but
  the waiting. It asks with `_lib.ask`, by a name of the table in go/operations.go.
- It checks what it is given before it asks, and turns the answer into a model.

How an answer arrives is in _ops.py; which node is asked, in _node.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from . import _lib, _ops
from ._node import LocalNode, target_text
from .errors import TailnetConfigError
from .models import Ping, parse_ping

if TYPE_CHECKING:
    from ._wait import Steps

PingKind = Literal["disco", "tsmp", "icmp", "peerapi"]

# Seconds that an unanswered ping is waited for, as `tailscale ping` waits for each of its own.
PING_TIMEOUT = 5.0


def ping(
    node: LocalNode, target: Any, kind: PingKind, size: int, timeout: float | None
) -> Steps[Ping]:
    """Ask a peer for an answer."""
    handle, deadline = node.handle(), _ops.deadline_of(timeout)
    text = target_text(target)
    number: object = size  # from callers who may not check types
    if type(number) is not int:
        raise TailnetConfigError(f"ping: size: want a number of bytes, and not {size!r}")
    with node.or_closed():
        asked = _lib.ask(handle, "ping", {"target": text, "kind": str(kind), "size": size})
        return parse_ping((yield from _ops.reply(asked, deadline, f"{text} to answer a ping")))
