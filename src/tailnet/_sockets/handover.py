"""Handing sockets over to other processes, as multiprocessing does with any socket.

Rules of this file:

- Only multiprocessing's pickler takes the sockets: in what starts a process, and through pipes and
  queues. It passes descriptors on; bytes of any other pickle could not.
- A socket arrives as the class that it was, with its addresses and its timeout. The node stays
  where it is, and goes on to feed what it has fed.
- The numbers by which the library knows connections mean nothing to another process, or rather
  something else, where that has a node of its own. They arrive only where the same library is: in
  the process itself, and in children that were forked from it.

Imported by the first node of a process, because multiprocessing takes milliseconds to import.
"""

from __future__ import annotations

import secrets
import weakref
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any

from .connection import TailnetSocket, give_timeout
from .listener import Listening, TailnetListener

# A forked child has the same one, any other process its own.
_LIBRARY = secrets.token_hex(8)

# Those that were handed over, by the path of their socket.
_listenings: weakref.WeakValueDictionary[str, Listening] = weakref.WeakValueDictionary()


class _Abroad:
    """What a listener asks of its node, where that is in another process."""

    def __init__(self, own_ips: tuple[str, str]) -> None:
        self._own_ips = own_ips
        self.pinned: set[TailnetListener] = set()

    def own_ip(self, peer: str | None = None) -> str:
        """Return the node's address, of the peer's family where it has one."""
        return self._own_ips[peer is not None and ":" in peer]


class Received(Listening):
    """A listening that belongs to another process, and ends there."""

    local = False

    def __init__(self, ip: str, port: int, owner: int, own_ips: tuple[str, str]) -> None:
        self.node: Any = _Abroad(own_ips)
        self.ip, self.port = ip, port
        self.ended = False
        self.path = ""
        self.handle = 0
        self.usual = None
        self._owner = owner

    def retain(self, view: TailnetListener) -> Callable[[], object]:
        """Count nothing: closing a view closes its descriptor, as with any socket."""
        return lambda: None

    def end(self) -> None:
        """Accept no more here."""
        self.ended = True


def _reduce_listener(listener: TailnetListener) -> tuple[Any, ...]:
    listener._check_open()
    listening = listener._listening
    fd = reduction.DupFd(listener.fileno())
    listening.node.pinned.add(listener)  # dropped here, it goes on there
    if listening.local:
        _listenings[listening.path] = listening
    return _rebuild_listener, (
        fd,
        (_LIBRARY, listening.path),
        listening.describe(),
        listener._inet,
        listener.gettimeout(),
        dict(listener._options),
    )


def _rebuild_listener(
    fd: Any,
    identity: tuple[str, str],
    description: tuple[str, int, int, tuple[str, str]],
    inet: bool,
    timeout: float | None,
    options: dict[tuple[int, int], int],
) -> TailnetListener:
    library, path = identity
    listening = _listenings.get(path) if library == _LIBRARY else None
    listener = TailnetListener(fd.detach(), listening or Received(*description), inet=inet)
    give_timeout(listener, timeout)
    listener._options = options
    return listener


def _reduce_socket(connection: TailnetSocket) -> tuple[Any, ...]:
    connection._check_open()
    return _rebuild_socket, (
        reduction.DupFd(connection.fileno()),
        _LIBRARY,
        {
            "own": connection._own,
            "peer": connection._peer,
            "connection": connection._connection,
            "whole": connection._whole,
            "inet": connection._inet,
            "usual": connection._usual,
        },
        connection.gettimeout(),
        dict(connection._options),
        dict(connection._acting),
    )


def _rebuild_socket(
    fd: Any,
    library: str,
    fields: dict[str, Any],
    timeout: float | None,
    options: dict[tuple[int, int], int],
    acting: dict[int, int],
) -> TailnetSocket:
    if library != _LIBRARY:
        fields.update(connection=0, usual=None)
    connection = TailnetSocket(fd.detach(), **fields)
    give_timeout(connection, timeout)
    connection._options, connection._acting = options, acting
    return connection


reduction.register(TailnetListener, _reduce_listener)
reduction.register(TailnetSocket, _reduce_socket)
