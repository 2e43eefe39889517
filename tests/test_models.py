"""What a node tells: documents of the library become models."""

from __future__ import annotations

import copy
import re
from datetime import datetime, timezone
from ipaddress import ip_address
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from tailnet import TailnetConfigError, models
from tailnet.models._events import _EVENTS, parse_event
from tailnet.models._people import parse_whois
from tailnet.models._status import parse_status

ZERO = "0001-01-01T00:00:00Z"
EXPIRY = datetime(2027, 3, 1, 10, 0, tzinfo=timezone.utc)

WHOIS: dict[str, Any] = {
    "Node": {
        "ID": 2,
        "StableID": "nABC123CNTRL",
        "Name": "laptop.example.ts.net.",
        "User": 11,
        "KeyExpiry": "2027-03-01T12:00:00+02:00",
        "Addresses": ["100.64.0.2/32", "fd7a:115c:a1e0::2/128"],
        "Tags": ["tag:web", "tag:db"],
        "Hostinfo": {"OS": "linux", "Hostname": "Laptop of Ann"},
        "Online": True,
    },
    "UserProfile": {
        "ID": 11,
        "LoginName": "ann@example.com",
        "DisplayName": "Ann",
        "ProfilePicURL": "https://example.com/ann.png",
    },
    "CapMap": {"example.com/cap/files": [{"paths": ["/"]}], "example.com/cap/bare": None},
}
PEER: dict[str, Any] = {
    "ID": "nPEER",
    "PublicKey": "nodekey:00",
    "HostName": "Server",
    "DNSName": "server.example.ts.net.",
    "OS": "macOS",
    "TailscaleIPs": ["100.64.0.3", "fd7a:115c:a1e0::3"],
    "Tags": ["tag:web"],
    "CurAddr": "192.0.2.1:41641",
    "Relay": "fra",
    "RxBytes": 10,
    "TxBytes": 20,
    "LastHandshake": "2026-01-02T03:04:05.123456789Z",
    "Online": True,
    "Active": True,
    "Expired": True,
    "KeyExpiry": "2027-03-01T10:00:00Z",
}
STATUS: dict[str, Any] = {
    "Version": "1.90.0",
    "BackendState": "Running",
    "Self": {"ID": "nSELF", "DNSName": "api.example.ts.net.", "TailscaleIPs": ["100.64.0.1"]},
    "Health": ["cannot reach DERP"],
    "CurrentTailnet": {"Name": "example.com", "MagicDNSSuffix": "example.ts.net"},
    "Peer": {"nodekey:01": {"DNSName": "zebra.example.ts.net."}, "nodekey:00": PEER},
}
EVENTS: list[tuple[dict[str, Any], models.Event]] = [
    ({"type": "state", "state": "Running"}, models.StateChanged(state="Running")),
    ({"type": "removed"}, models.Removed()),
    ({"type": "login", "url": "https://login/a"}, models.LoginURL(url="https://login/a")),
    ({"type": "health", "warnings": []}, models.HealthChanged()),
    (
        {"type": "health", "warnings": [dict.fromkeys(("code", "severity", "title", "text"), "x")]},
        models.HealthChanged(
            warnings=(models.Health(code="x", severity="x", title="x", text="x"),)
        ),
    ),
    (
        {
            "type": "peers",
            "changed": [{"id": "n1", "name": "db.x.ts.net", "ips": ["100.64.0.9"], "online": True}],
            "removed": ["n2"],
        },
        models.PeersChanged(
            changed=(
                models.Peer(
                    stable_id="n1",
                    name="db.x.ts.net",
                    hostname="db",
                    ips=(ip_address("100.64.0.9"),),
                    online=True,
                ),
            ),
            removed=("n2",),
        ),
    ),
    (
        {
            "type": "peers",
            "changed": [{"id": "n1", "name": "", "ips": None, "online": False}],
            "removed": [],
        },
        models.PeersChanged(changed=(models.Peer(stable_id="n1"),)),
    ),
    (
        {"type": "key_expiry", "expiry": "2027-03-01T10:00:00Z", "expired": True},
        models.KeyExpiry(expiry=EXPIRY, expired=True),
    ),
    ({"type": "key_expiry", "expiry": None, "expired": False}, models.KeyExpiry()),
    ({"lost": 7}, models.EventsLost(count=7)),
]


def test_whois_of_a_person() -> None:
    """Whois says the person, the node and what the policy grants, in plain terms."""
    found = parse_whois(WHOIS)
    assert found.user == models.User(
        id=11,
        login="ann@example.com",
        display_name="Ann",
        picture_url="https://example.com/ann.png",
    )
    assert found.node == models.Node(
        id=2,
        stable_id="nABC123CNTRL",
        name="laptop.example.ts.net",
        hostname="laptop",
        ips=(ip_address("100.64.0.2"), ip_address("fd7a:115c:a1e0::2")),
        tags=("tag:web", "tag:db"),
        os="linux",
        key_expiry=EXPIRY,
        online=True,
    )
    assert found.caps == {
        "example.com/cap/files": ({"paths": ["/"]},),
        "example.com/cap/bare": (),
    }


def test_times_are_utc() -> None:
    """A time with an offset is the same moment in UTC."""
    expiry = parse_whois(WHOIS).node.key_expiry
    assert expiry is not None
    assert (expiry.hour, expiry.tzinfo) == (10, timezone.utc)


@pytest.mark.parametrize(
    "document",
    [
        {"Node": None, "UserProfile": None, "CapMap": None},
        {"Node": {"Name": "", "Addresses": None, "Tags": None, "Hostinfo": None, "Online": None}},
        {"Node": {"KeyExpiry": ZERO}, "UserProfile": {"LoginName": None}},
        {},
    ],
)
def test_whois_of_what_is_not_there(document: dict[str, Any]) -> None:
    """Nulls, zero times and missing parts are empty, and a node may be neither on nor offline."""
    found = parse_whois(document)
    assert found == models.WhoIs(user=models.User(), node=models.Node(), raw=document)
    assert (found.node.key_expiry, found.node.online) == (None, None)


def test_status_of_a_running_node() -> None:
    """The status says the node's state, itself, its tailnet and its peers by name."""
    status = parse_status(STATUS)
    assert (status.state, status.tailnet) == ("Running", "example.com")
    assert (status.magicdns_suffix, status.health) == ("example.ts.net", ("cannot reach DERP",))
    assert status.self == models.Peer(
        stable_id="nSELF",
        name="api.example.ts.net",
        hostname="api",
        ips=(ip_address("100.64.0.1"),),
    )
    assert [peer.hostname for peer in status.peers] == ["server", "zebra"]
    assert status.peers[0] == models.Peer(
        stable_id="nPEER",
        name="server.example.ts.net",
        hostname="server",
        ips=(ip_address("100.64.0.3"), ip_address("fd7a:115c:a1e0::3")),
        tags=("tag:web",),
        os="macOS",
        online=True,
        active=True,
        relay="fra",
        address="192.0.2.1:41641",
        rx_bytes=10,
        tx_bytes=20,
        last_handshake=datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=timezone.utc),
        key_expiry=EXPIRY,
        expired=True,
    )


@pytest.mark.parametrize(
    "document",
    [
        {"Self": None, "Peer": None, "CurrentTailnet": None, "Health": None},
        {"Self": {"TailscaleIPs": None, "Tags": None, "LastHandshake": ZERO, "KeyExpiry": None}},
        {},
    ],
)
def test_status_of_a_node_that_has_not_joined(document: dict[str, Any]) -> None:
    """Before a node joins, all but its state is empty."""
    document = {"BackendState": "NoState"} | document
    assert parse_status(document) == models.Status(
        state="NoState", self=models.Peer(), raw=document
    )


@pytest.mark.parametrize(("document", "event"), EVENTS)
def test_event(document: dict[str, Any], event: models.Event) -> None:
    """Each line of the stream is the event it names, and a loss is one too."""
    found = parse_event(document)
    assert type(found) is type(event)
    assert found == event


def test_every_event_is_tested() -> None:
    """No type of event was forgotten above."""
    assert {document.get("type") for document, _ in EVENTS} == {*_EVENTS, None}


def test_whole_document_is_kept() -> None:
    """What the models leave out is in `raw`, which no repr prints."""
    for found, document in ((parse_whois(WHOIS), WHOIS), (parse_status(STATUS), STATUS)):
        assert found.raw == document
        assert "raw" not in repr(found)
    assert "nodekey:00" not in repr(parse_status(STATUS))


def test_login_url_is_not_printed() -> None:
    """Whoever has the URL can log the node in: no repr shows it."""
    assert "https" not in repr(parse_event({"type": "login", "url": "https://login/a"}))


@pytest.mark.parametrize(
    "model",
    [parse_whois(WHOIS), parse_status(STATUS), *(event for _, event in EVENTS)],
    ids=lambda model: type(model).__name__,
)
def test_models_are_immutable(model: BaseModel) -> None:
    """No field of what a node told can be set."""
    before = copy.deepcopy(model)
    for name in type(model).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(model, name, None)
    assert model == before


@pytest.mark.parametrize(
    ("address", "quoted"),
    [
        (3, "3"),
        (None, "None"),
        ("nobody", "'nobody'"),
        ("nobody:80", "'nobody:80'"),
        (("nobody", 80), "'nobody'"),
        ((), "()"),
    ],
)
def test_a_peer_is_asked_for_by_its_address(address: Any, quoted: str) -> None:
    """Whatever is no IP address is a TailnetConfigError that quotes it."""
    with pytest.raises(TailnetConfigError, match=f"^{re.escape(quoted)} is no IP address$"):
        parse_status(STATUS).peer(address)
