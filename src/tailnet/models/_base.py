"""What the models are made of: their base, how Go writes things, and addresses.

Go writes null for an empty list or map, and the year 1 for a time that is not set.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Annotated, Any, TypeAlias, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from ..errors import TailnetConfigError

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Raw: TypeAlias = Mapping[str, Any]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True)

    def __str__(self) -> str:
        return repr(self)  # with its class, which says what an event is


def _lists(caps: Mapping[str, list[Any] | None] | None) -> dict[str, list[Any]]:
    return {name: values or [] for name, values in (caps or {}).items()}


Text = Annotated[str, BeforeValidator(lambda v: "" if v is None else v)]
Name = Annotated[Text, AfterValidator(lambda v: v.removesuffix("."))]
Names = Annotated[tuple[str, ...], BeforeValidator(lambda v: v or ())]
IPs = Annotated[tuple[IPAddress, ...], BeforeValidator(lambda v: v or ())]
Caps = Annotated[Mapping[str, tuple[Any, ...]], BeforeValidator(_lists)]
Time = Annotated[
    datetime | None,
    AfterValidator(lambda v: None if v is None or v.year <= 1 else v.astimezone(timezone.utc)),
]


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


def object_of(document: Raw, key: str) -> Raw:
    """Return an object in a document; Go writes null, or nothing, for one that is not there."""
    found: Raw | None = document.get(key)
    return {} if found is None else found


def named(name: str | None) -> dict[str, str]:
    return {"name": name or "", "hostname": (name or "").partition(".")[0]}
