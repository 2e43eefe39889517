"""A peer's answer to a ping."""

from __future__ import annotations

from ._base import IPAddress, Model, Raw


class Ping(Model):
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


def parse_ping(document: Raw) -> Ping:
    """Make the model of a ping's answer."""
    return Ping.model_validate(document)
