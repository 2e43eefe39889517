"""Who has an address: `WhoIs`."""

from __future__ import annotations

from pydantic import Field

from ._base import Caps, IPs, Model, Name, Names, Raw, Text, Time, named, object_of


class User(Model):
    """A person of the tailnet, or "tagged-devices" for nodes that belong to their tags."""

    id: int = 0
    login: Text = Field(default="", description="Such as alice@example.com.")
    display_name: Text = ""
    picture_url: Text = ""


class Node(Model):
    """A node of the tailnet.

    Attributes:
        name: Its MagicDNS name, fully qualified: "api.example.ts.net".
        hostname: The first label of the name.
        ips: Its addresses on the tailnet, IPv4 first.
        key_expiry: When its key expires; None for never.
        online: Whether control hears from it; None where control does not say.
    """

    id: int = 0
    stable_id: Text = ""
    name: Name = ""
    hostname: Text = ""
    ips: IPs = ()
    tags: Names = ()
    os: Text = ""
    key_expiry: Time = None
    online: bool | None = None


class WhoIs(Model):
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
    caps: Caps = Field(default_factory=dict)
    raw: Raw = Field(repr=False)


def parse_whois(document: Raw) -> WhoIs:
    """Make the model of a WhoIsResponse."""
    node, user = object_of(document, "Node"), object_of(document, "UserProfile")
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
                **named(node.get("Name")),
                "ips": [prefix.partition("/")[0] for prefix in node.get("Addresses") or ()],
                "tags": node.get("Tags"),
                "os": object_of(node, "Hostinfo").get("OS"),
                "key_expiry": node.get("KeyExpiry"),
                "online": node.get("Online"),
            },
            "caps": document.get("CapMap"),
            "raw": document,
        }
    )
