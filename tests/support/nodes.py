"""What tests ask of nodes of the offline tailnet."""

from __future__ import annotations

from tailnet import TailnetHandle
from tests.support.faces import AsyncNode, SyncNode
from tests.support.waiting import eventually

Node = SyncNode | AsyncNode


def acquaint(*nodes: TailnetHandle) -> None:
    """Wait until every node has heard of every other; before that, it cannot dial it."""
    for node in nodes:
        others = {other.fqdn for other in nodes} - {node.fqdn}
        eventually("they know each other", lambda: others <= {p.name for p in node.status().peers})  # noqa: B023


def knows(node: Node, other: Node) -> bool:
    """Report whether a node has heard of another, which takes a moment after that has joined."""
    return any(peer.name == other.handle.fqdn for peer in node.status().peers)
