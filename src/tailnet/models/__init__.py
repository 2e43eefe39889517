"""What a node tells: who has an address, its status, and the events of `watch()`.

And what the library is made of, which needs no node: `Versions`.

Rules of this package:

- Models are frozen, hold what programs ask for, and keep the whole document in `raw`.
- Names are the field's standard terms; a time that Go calls zero is None; a DNS name has no last
  dot.
- Addresses are objects of `ipaddress`, where sockets have texts; `model_dump(mode="json")` and
  `model_dump_json()` turn them into text.
- The functions turn documents of go/tailnet.h into models.

A module for each subject: _people.py, _status.py, _ping.py, _events.py and _versions.py.
"""

from __future__ import annotations

from ._events import (
    Event,
    EventsLost,
    Health,
    HealthChanged,
    KeyExpiry,
    LoginURL,
    PeersChanged,
    Removed,
    StateChanged,
)
from ._people import Node, User, WhoIs
from ._ping import Ping
from ._status import Peer, Status
from ._versions import Versions

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
