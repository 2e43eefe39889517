"""What a program asks of a node that has joined: one generator for each operation.

Rules of this file:

- A function here is a generator of the protocol in _engine/wait.py; both faces run it, and add
  nothing but the waiting. It asks with `lib.ask`, by a name of the table in go/operations.go.
- It checks what it is given before it asks, and turns the answer into a model.

How an answer arrives is in _engine/ops.py; which node is asked, in node.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from .._configuration.files import new_file
from .._engine import lib, ops
from .._text import quoted
from ..errors import TailnetConfigError
from ..models import Ping, Status, WhoIs
from ..models._base import ip_of
from ..models._people import parse_whois
from ..models._ping import parse_ping
from ..models._status import parse_status
from .address import target_text

if TYPE_CHECKING:
    from .._engine.wait import Steps
    from .node import LocalNode

PingKind = Literal["disco", "tsmp", "icmp", "peerapi"]

# Seconds that an unanswered ping is waited for, as `tailscale ping` waits for each of its own.
PING_TIMEOUT = 5.0

_LONGEST_CAPTURE = 10**6  # seconds; Go counts nanoseconds in 64 bits

# What whois() has answered is kept for so many addresses. A server that knows its callers asks at
# every request: without this, a tenth of a millisecond each, most of it to build the model.
_MOST_PEOPLE = 4096


def whois(node: LocalNode, target: Any, timeout: float | None) -> Steps[WhoIs]:
    """Say who has an address."""
    handle, deadline = node.handle(), ops.deadline_of(timeout)
    text, generation = target_text(target), lib.generation()
    kept = node.people.get(text)
    if kept is not None and kept[0] == generation:
        return kept[1]
    with node.or_closed():
        asked = lib.ask(handle, "whois", {"address": text})
        who = parse_whois((yield from ops.reply(asked, deadline, "who has that address")))
    if len(node.people) >= _MOST_PEOPLE:
        node.people.clear()
    node.people[text] = generation, who  # of before the question: good until that changes
    return who


def is_own(node: LocalNode, target: Any) -> bool:
    """Report whether an address, or a connection's peer, is this node. Nothing is asked."""
    return ip_of(target_text(target, "is_own")) in node.ips


def status(node: LocalNode, timeout: float | None) -> Steps[Status]:
    """Say how the node and its peers are."""
    handle, deadline = node.handle(), ops.deadline_of(timeout)
    with node.or_closed():
        asked = lib.ask(handle, "status", {})
        return parse_status((yield from ops.reply(asked, deadline, "the status")))


def watch(node: LocalNode) -> ops.Lines:
    """Open the stream of events."""
    handle = node.handle()
    with node.or_closed():
        return ops.Lines(lib.ask(handle, "watch", {}))


def capture(node: LocalNode, path: Any, seconds: float | None) -> Steps[ops.Session]:
    """Begin to write the node's packets to a file."""
    handle = node.handle()
    number: object = seconds  # from callers who may not check types
    wanted = isinstance(number, int | float) and 0 < number <= _LONGEST_CAPTURE
    if number is not None and not wanted:
        raise TailnetConfigError(
            f"capture: seconds: want more than 0, and at most {_LONGEST_CAPTURE:,}, or None,"
            f" and not {quoted(number)}"
        )
    with node.or_closed(), new_file(path, "capture") as file:
        asked = lib.ask(handle, "capture", {"seconds": seconds or 0}, file)
        try:
            yield from ops.answer(asked, None, "the capture to begin")
        except BaseException:
            asked.cancel()
            raise
    return ops.Session(asked)


def ping(
    node: LocalNode, target: Any, kind: PingKind, size: int, timeout: float | None
) -> Steps[Ping]:
    """Ask a peer for an answer."""
    handle, deadline = node.handle(), ops.deadline_of(timeout)
    text = target_text(target, "ping")
    number: object = size  # from callers who may not check types
    if type(number) is not int:
        raise TailnetConfigError(f"ping: size: want a number of bytes, and not {size!r}")
    with node.or_closed():
        asked = lib.ask(handle, "ping", {"target": text, "kind": str(kind), "size": size})
        return parse_ping((yield from ops.reply(asked, deadline, f"{text} to answer a ping")))
