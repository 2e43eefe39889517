"""What this process holds of the tailnet: one registry for nodes, sockets and streams.

Whatever must be closed is added when it is made, and is gone from here when it is dropped. The
leak checks of tailnet.testing read it, and hear of what is dropped unclosed. Nothing is kept alive.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")

_things: dict[int, weakref.ref[Any]] = {}  # by id(); a WeakSet cannot be read while it grows

_hearers: list[Callable[[Any], None]] = []


def add(thing: object) -> None:
    """Take in what has just been made."""
    number = id(thing)
    _things[number] = weakref.ref(thing, lambda _: _things.pop(number, None))


def all_of(kind: type[T]) -> list[T]:
    """Return those of a class that are there, closed ones included."""
    return [thing for ref in list(_things.values()) if isinstance(thing := ref(), kind)]


def dropped(thing: object) -> None:
    """Say that something is dropped while it is open: its `__del__` does."""
    for hear in _hearers:
        hear(thing)


@contextlib.contextmanager
def hearing(hear: Callable[[Any], None]) -> Generator[None]:
    """Have a function called with whatever is dropped while it is open."""
    _hearers.append(hear)
    try:
        yield
    finally:
        _hearers.remove(hear)
