"""The status of a node, and its peers."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ._base import IPAddress, IPs, Model, Name, Names, Raw, Text, Time, ip_of, named, object_of


class Peer(Model):
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

    stable_id: Text = ""
    name: Name = ""
    hostname: Text = ""
    ips: IPs = ()
    tags: Names = ()
    os: Text = ""
    online: bool = False
    active: bool = False
    relay: Text = ""
    address: Text = ""
    rx_bytes: int = 0
    tx_bytes: int = 0
    last_handshake: Time = None
    key_expiry: Time = None
    expired: bool = False


class Status(Model):
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
    health: Names = ()
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


def parse_status(document: Raw) -> Status:
    """Make the model of an ipnstate.Status."""
    tailnet = object_of(document, "CurrentTailnet")
    peers = [_peer(peer) for peer in object_of(document, "Peer").values()]
    return Status.model_validate(
        {
            "state": document["BackendState"],
            "self": _peer(object_of(document, "Self")),
            "peers": sorted(peers, key=lambda peer: peer.name),
            "tailnet": tailnet.get("Name", ""),
            "magicdns_suffix": tailnet.get("MagicDNSSuffix", ""),
            "health": document.get("Health"),
            "raw": document,
        }
    )


def _peer(document: Raw) -> Peer:
    return Peer.model_validate(
        {
            "stable_id": document.get("ID"),
            **named(document.get("DNSName")),
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
