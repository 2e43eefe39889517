"""What this process holds of the tailnet: one registry for nodes, sockets and streams.

Whatever must be closed adds itself when it is made. The registry keeps nothing alive. The leak
checks of tailnet.testing read it, and learn from it of what is dropped while it is open.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")

# By id(), and no WeakSet: a list of valuerefs() is safe while another thread adds.
_things: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

_hearers: list[Callable[[Any], None]] = []


def add(thing: object) -> None:
    """Register what has just been made."""
    _things[id(thing)] = thing


def all_of(kind: type[T]) -> list[T]:
    """Return the living instances of a class, closed ones included."""
    return [thing for ref in _things.valuerefs() if isinstance(thing := ref(), kind)]


def dropped(thing: object) -> None:
    """Report something that is dropped while it is open; its `__del__` calls this."""
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
