"""What a node tells: who has an address, its status, and the events of `watch()`.

And what the library is made of, which needs no node: `Versions`.

Rules of this file:

- Models are frozen, hold what programs ask for, and keep the whole document in `raw`.
- Names are the field's standard terms; a time that Go calls zero is None; a DNS name has no last
  dot.
- Addresses are objects of `ipaddress`, where sockets have texts; `model_dump(mode="json")` and
  `model_dump_json()` turn them into text.
- The functions turn documents of go/tailnet.h into models.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Annotated, Any, TypeAlias, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from .errors import TailnetConfigError

__all__ = [
    "Event",
    "EventsLost",
    "Health",
    "HealthChanged",
    "KeyExpiry",
    "LoginURL",
    "Node",
    "Peer",
    "PeersChanged",
    "Ping",
    "Removed",
    "StateChanged",
    "Status",
    "User",
    "Versions",
    "WhoIs",
]

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Raw: TypeAlias = Mapping[str, Any]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)

    def __str__(self) -> str:
        return repr(self)  # with its class, which says what an event is


def _lists(caps: Mapping[str, list[Any] | None] | None) -> dict[str, list[Any]]:
    return {name: values or [] for name, values in (caps or {}).items()}


# Go writes null for an empty list or map, and the year 1 for a time that is not set.
_Text = Annotated[str, BeforeValidator(lambda v: "" if v is None else v)]
_Name = Annotated[_Text, AfterValidator(lambda v: v.removesuffix("."))]
_Names = Annotated[tuple[str, ...], BeforeValidator(lambda v: v or ())]
_IPs = Annotated[tuple[IPAddress, ...], BeforeValidator(lambda v: v or ())]
_Caps = Annotated[Mapping[str, tuple[Any, ...]], BeforeValidator(_lists)]
_Time = Annotated[
    datetime | None,
    AfterValidator(lambda v: None if v is None or v.year <= 1 else v.astimezone(timezone.utc)),
]


class User(_Model):
    """A person of the tailnet, or "tagged-devices" for nodes that belong to their tags."""

    id: int = 0
    login: _Text = Field(default="", description="Such as alice@example.com.")
    display_name: _Text = ""
    picture_url: _Text = ""


class Node(_Model):
    """A node of the tailnet.

    Attributes:
        name: Its MagicDNS name, fully qualified: "api.example.ts.net".
        hostname: The first label of the name.
        ips: Its addresses on the tailnet, IPv4 first.
        key_expiry: When its key expires; None for never.
        online: Whether control hears from it; None where control does not say.
    """

    id: int = 0
    stable_id: _Text = ""
    name: _Name = ""
    hostname: _Text = ""
    ips: _IPs = ()
    tags: _Names = ()
    os: _Text = ""
    key_expiry: _Time = None
    online: bool | None = None


class WhoIs(_Model):
    """Who has an address.

    Attributes:
        user: The person behind the node.
        node: The node.
        caps: What the tailnet's policy grants the caller towards this node: capability name to
            its values, as the policy file has them.
        raw: Tailscale's WhoIsResponse.
    """

    user: User
    node: Node
    caps: _Caps = {}
    raw: Raw = Field(repr=False)


class Peer(_Model):
    """A node as the status has it.

    Attributes:
        name: Its MagicDNS name, fully qualified.
        active: Whether there was traffic with it lately.
        relay: The DERP region its traffic goes through where there is no direct path.
        address: The "ip:port" its traffic goes to; "" without a direct path.
        rx_bytes: Bytes received from it.
        tx_bytes: Bytes sent to it.
        last_handshake: Of WireGuard; None for never.
    """

    stable_id: _Text = ""
    name: _Name = ""
    hostname: _Text = ""
    ips: _IPs = ()
    tags: _Names = ()
    os: _Text = ""
    online: bool = False
    active: bool = False
    relay: _Text = ""
    address: _Text = ""
    rx_bytes: int = 0
    tx_bytes: int = 0
    last_handshake: _Time = None
    key_expiry: _Time = None
    expired: bool = False


class Status(_Model):
    """The state of a node and the peers it sees.

    Attributes:
        state: "Running", "NeedsLogin", "NeedsMachineAuth", "Starting", "Stopped" or "NoState".
        self: This node.
        peers: The others, by name.
        tailnet: The tailnet's name.
        magicdns_suffix: What MagicDNS names end with.
        health: What is wrong, in words; empty where nothing is.
        raw: Tailscale's ipnstate.Status.
    """

    state: str
    self: Peer
    peers: tuple[Peer, ...] = ()
    tailnet: str = ""
    magicdns_suffix: str = ""
    health: _Names = ()
    raw: Raw = Field(repr=False)

    def peer(self, address: str | IPAddress | tuple[Any, ...]) -> Peer | None:
        """Return the node that has an address, `self` included; None if none of these has it.

        Args:
            address: An IP address as text or object, "ip:port", or (ip, port) as sockets have it.

        Raises:
            TailnetConfigError: it is no IP address.
        """
        ip = ip_of(address)
        return next((node for node in (self.self, *self.peers) if ip in node.ips), None)


class Ping(_Model):
    """A peer's answer to a ping.

    Attributes:
        ip: The address that was pinged.
        name: The peer's name, as its own node gives it.
        latency: Seconds of the round trip.
        endpoint: The "ip:port" that answered directly; "" where a relay carried the ping, and for
            kinds other than "disco", which do not tell.
        relay: The code of the DERP region, or the address of the peer relay, that carried it; ""
            for a direct path, and for kinds other than "disco".
        url: Of the peer's API, for kind "peerapi"; else "".
    """

    ip: IPAddress
    name: str
    latency: float
    endpoint: str
    relay: str
    url: str


class StateChanged(_Model):
    """The node came to another state, as in `Status.state`."""

    state: str


class LoginURL(_Model):
    """A person must visit `url` for the node to join, or to stay."""

    url: str = Field(repr=False)


class Health(_Model):
    """One thing that is wrong; `severity` is "high", "medium" or "low"."""

    code: str
    severity: str
    title: str
    text: str


class HealthChanged(_Model):
    """What is wrong now; nothing, where `warnings` is empty."""

    warnings: tuple[Health, ...] = ()


class PeersChanged(_Model):
    """Peers that are new or different, and the stable ids of those that left."""

    changed: tuple[Peer, ...] = ()
    removed: tuple[str, ...] = ()


class KeyExpiry(_Model):
    """When this node's key expires, None for never, and whether it has."""

    expiry: _Time = None
    expired: bool = False


class Removed(_Model):
    """An admin has removed this node from the tailnet; it must join again.

    Calls raise `TailnetAuthError` from now on. `Status.state` stays "Running".
    """


class EventsLost(_Model):
    """The reader was too slow: `count` events were dropped. A fresh snapshot follows."""

    count: int


class Versions(_Model):
    """What the loaded library is made of, and whether the wheel it came in says so.

    Attributes:
        tailnet: Ours.
        tailscale: Of the Go module tailscale.com, such as "v1.102.5".
        go: Of the Go that compiled it, such as "go1.26.6".
        wheel: The same three as the wheel lists them; None without a list, because the library
            was built on this machine.
    """

    tailnet: str
    tailscale: str
    go: str
    wheel: Mapping[str, str] | None = None

    @property
    def matches_wheel(self) -> bool | None:
        """Whether the loaded library is the wheel's; None where there is no wheel.

        False means that files of two installations are mixed: install the package again.
        """
        if self.wheel is None:
            return None
        return all(getattr(self, name) == value for name, value in self.wheel.items())


Event: TypeAlias = (
    StateChanged | LoginURL | HealthChanged | PeersChanged | KeyExpiry | Removed | EventsLost
)


def ip_of(address: object) -> IPAddress:
    """Return the IP address in what names one: text, with or without a port, or (ip, port).

    Raises:
        TailnetConfigError: there is none.
    """
    match address:
        case ipaddress.IPv4Address() | ipaddress.IPv6Address():
            return address
        case tuple() | list() if address:
            pair = cast("tuple[object, ...]", address)
            return ip_of(pair[0])
        case str():
            for text in (address, address.rpartition(":")[0].removeprefix("[").removesuffix("]")):
                with contextlib.suppress(ValueError):
                    return ipaddress.ip_address(text)
        case _:
            pass
    raise TailnetConfigError(f"{address!r} is no IP address")


def parse_whois(document: Raw) -> WhoIs:
    """Make the model of a WhoIsResponse."""
    node, user = _object(document, "Node"), _object(document, "UserProfile")
    return WhoIs.model_validate(
        {
            "user": {
                "id": user.get("ID", 0),
                "login": user.get("LoginName"),
                "display_name": user.get("DisplayName"),
                "picture_url": user.get("ProfilePicURL"),
            },
            "node": {
                "id": node.get("ID", 0),
                "stable_id": node.get("StableID"),
                **_named(node.get("Name")),
                "ips": [prefix.partition("/")[0] for prefix in node.get("Addresses") or ()],
                "tags": node.get("Tags"),
                "os": _object(node, "Hostinfo").get("OS"),
                "key_expiry": node.get("KeyExpiry"),
                "online": node.get("Online"),
            },
            "caps": document.get("CapMap"),
            "raw": document,
        }
    )


def parse_status(document: Raw) -> Status:
    """Make the model of an ipnstate.Status."""
    tailnet = _object(document, "CurrentTailnet")
    peers = [_peer(peer) for peer in _object(document, "Peer").values()]
    return Status.model_validate(
        {
            "state": document["BackendState"],
            "self": _peer(_object(document, "Self")),
            "peers": sorted(peers, key=lambda peer: peer.name),
            "tailnet": tailnet.get("Name", ""),
            "magicdns_suffix": tailnet.get("MagicDNSSuffix", ""),
            "health": document.get("Health"),
            "raw": document,
        }
    )


def parse_ping(document: Raw) -> Ping:
    """Make the model of a ping's answer."""
    return Ping.model_validate(document)


def _peer(document: Raw) -> Peer:
    return Peer.model_validate(
        {
            "stable_id": document.get("ID"),
            **_named(document.get("DNSName")),
            "ips": document.get("TailscaleIPs"),
            "tags": document.get("Tags"),
            "os": document.get("OS"),
            "online": document.get("Online", False),
            "active": document.get("Active", False),
            "relay": document.get("Relay"),
            "address": document.get("CurAddr"),
            "rx_bytes": document.get("RxBytes", 0),
            "tx_bytes": document.get("TxBytes", 0),
            "last_handshake": document.get("LastHandshake"),
            "key_expiry": document.get("KeyExpiry"),
            "expired": document.get("Expired", False),
        }
    )


def _peers(document: Raw) -> PeersChanged:
    changed = [
        {
            "stable_id": peer["id"],
            **_named(peer["name"]),
            "ips": peer["ips"],
            "online": peer["online"],
        }
        for peer in document["changed"]
    ]
    return PeersChanged.model_validate({"changed": changed, "removed": document["removed"]})


def _object(document: Raw, key: str) -> Raw:
    """Return an object in a document; Go writes null, or nothing, for one that is not there."""
    found: Raw | None = document.get(key)
    return {} if found is None else found


def _named(name: str | None) -> dict[str, str]:
    return {"name": name or "", "hostname": (name or "").partition(".")[0]}


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
