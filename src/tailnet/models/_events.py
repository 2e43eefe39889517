"""The events of `watch()`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from pydantic import Field

from ._base import Model, Raw, Time, named
from ._status import Peer


class StateChanged(Model):
    """The node came to another state, as in `Status.state`."""

    state: str


class LoginURL(Model):
    """A person must visit `url` for the node to join, or to stay."""

    url: str = Field(repr=False)


class Health(Model):
    """One thing that is wrong; `severity` is "high", "medium" or "low"."""

    code: str
    severity: str
    title: str
    text: str


class HealthChanged(Model):
    """What is wrong now; nothing, where `warnings` is empty."""

    warnings: tuple[Health, ...] = ()


class PeersChanged(Model):
    """Peers that are new or different, and the stable ids of those that left."""

    changed: tuple[Peer, ...] = ()
    removed: tuple[str, ...] = ()


class KeyExpiry(Model):
    """When this node's key expires, None for never, and whether it has."""

    expiry: Time = None
    expired: bool = False


class Removed(Model):
    """An admin has removed this node from the tailnet; it must join again.

    Calls raise `TailnetAuthError` from now on. `Status.state` stays "Running".
    """


class EventsLost(Model):
    """The reader was too slow: `count` events were dropped. A fresh snapshot follows."""

    count: int


Event: TypeAlias = (
    StateChanged | LoginURL | HealthChanged | PeersChanged | KeyExpiry | Removed | EventsLost
)


def _peers(document: Raw) -> PeersChanged:
    changed = [
        {
            "stable_id": peer["id"],
            **named(peer["name"]),
            "ips": peer["ips"],
            "online": peer["online"],
        }
        for peer in document["changed"]
    ]
    return PeersChanged.model_validate({"changed": changed, "removed": document["removed"]})


_EVENTS: Mapping[str, Callable[[Raw], Event]] = {
    "state": lambda e: StateChanged(state=e["state"]),
    "login": lambda e: LoginURL(url=e["url"]),
    "health": lambda e: HealthChanged(warnings=tuple(Health(**w) for w in e["warnings"])),
    "peers": _peers,
    "removed": lambda _: Removed(),
    "key_expiry": lambda e: KeyExpiry(expiry=e["expiry"], expired=e["expired"]),
}


def parse_event(document: Raw) -> Event:
    """Make the event of one line of the operation "watch"."""
    if "lost" in document:
        return EventsLost(count=document["lost"])
    return _EVENTS[document["type"]](document)
