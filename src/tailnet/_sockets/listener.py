"""A listener: `TailnetListener`, a real listening socket that the library feeds.

Rules of this file:

- Python makes a unix listening socket at a path in a private directory; for each connection that
  a peer makes on the tailnet, the library connects to it. So accept(2) works, in any code and in
  any process that has the descriptor.
- `Listening` is what one listener and its views share: it ends the listening in the process that
  began it, and there only. In a forked child a close merely closes that child's copy.
- Whoever else of this user connects to the path is turned away: only the process that owns the
  node speaks for the tailnet (`SO_PEERCRED`). Readers of the descriptor in C do not check; the
  directory's mode keeps other users out.

What accept() returns is in connection.py; a listener begins in _node/listening.py, and another
process gets it by handover.py.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import secrets
import socket
import struct
import sys
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

from .._engine import lib
from .._engine.scratch import Scratch
from ..errors import TailnetClosed
from .connection import Address, TailnetSocket, TcpLike, give_timeout, parse_peer_name

__all__ = ["TailnetListener"]

log = logging.getLogger("tailnet")

_ANY = frozenset({"", "0.0.0.0", "::"})

_MOST_KNOCKS = 256  # more processes and threads than this do not accept on one listener

_CLOSED = b"/0/closed"  # ends the name of the connection that says that the node was closed


class _Accept(Protocol):
    """What socket.socket has and typeshed does not: accept(2), and the new descriptor."""

    def _accept(self) -> tuple[int, object]: ...


class Home(Protocol):
    """What a listening needs to know of the node that it belongs to."""

    closed: bool
    listening: weakref.WeakSet[Listening]
    pinned: set[TailnetListener]  # those whose descriptor has gone elsewhere, and that go on

    @property
    def name(self) -> str: ...

    def own_ip(self, peer: str | None = None) -> str: ...


class Listening:
    """The library's listener and the socket it feeds, for one listener and all its views."""

    local = True  # this process, or a parent of it, has the node

    def __init__(self, node: Home, backlog: int) -> None:
        self.node = node
        self.ip = ""
        self.port = 0
        self.ended = False
        self._views: set[int] = set()
        self._owner = os.getpid()
        self.handle = 0
        self.usual: list[int] | None = None  # options of its connections (connection.py)
        # Kept until the listening ends, whatever becomes of the views: a child, or a server in C,
        # may have a descriptor that no view knows of.
        with contextlib.ExitStack() as undo:
            self.socket = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            self._scratch = Scratch()
            undo.callback(self._scratch.remove)
            # It stays there while it is listened on: gunicorn fails where it cannot unlink it.
            self.path = os.path.join(self._scratch.path, "listener")  # noqa: PTH118 - a C string
            self.socket.bind(self.path)
            self.socket.listen(backlog)
            undo.pop_all()

    def keep(self, handle: int) -> None:
        """Own the library's listener."""
        self.handle = handle

    def begin(self, *, ip: str, port: int, options: list[int] | None) -> None:
        """Take in what the library answered."""
        self.ip, self.port, self.usual = ip, port, options
        self.node.listening.add(self)
        if self.node.closed:  # it was closed while the answer was under way, and woke nobody here
            raise TailnetClosed(f"node {self.node.name!r} was closed")

    def own_address(self, peer: str | None = None) -> Address:
        """Return the (ip, port) that a peer, or anybody, connects to."""
        if self.ip not in _ANY:
            return self.ip, self.port
        return self.node.own_ip(peer), self.port

    def describe(self) -> tuple[str, int, int, tuple[str, str]]:
        """Return what another process needs to know of it."""
        return self.ip, self.port, self._owner, (self.node.own_ip(), self.node.own_ip(":"))

    def is_of_the_node(self, connection: socket.socket) -> bool:
        """Report whether the process that owns the node made this connection."""
        return _peer_pid(connection) == self._owner

    def ends_with(self, name: object) -> bool:
        """Report whether the name of a connection says, to another process, that it is over."""
        if os.getpid() != self._owner and isinstance(name, bytes) and name.endswith(_CLOSED):
            self.ended = True
        return self.ended

    def retain(self, view: TailnetListener) -> Callable[[], object]:
        """Count one more view, and return what counts it out, once; as its end does unasked."""
        self._views.add(number := next(_numbers))
        finalizer = weakref.finalize(view, self._release, number)
        finalizer.atexit = False
        return finalizer

    def _release(self, number: int) -> None:
        self._views.discard(number)
        if not self._views:
            self.end()

    def end(self) -> None:
        """Give the port back and wake whoever sits in accept. Idempotent.

        In a forked child, merely close the copy.
        """
        if os.getpid() == self._owner and not self.ended:
            self.ended = True
            handle, self.handle = self.handle, 0
            if handle and lib.usable():
                lib.listener_close(handle)
            self.node.listening.discard(self)
            self._wake()
            self._scratch.remove()
        self._scratch.close()
        self.socket.close()

    def _wake(self) -> None:
        """Wake who waits for a connection, in this process and in its children."""
        # By connections that say what they are: everybody else takes them for callers who hung up
        # at once. A shutdown would end accept(2) for good, but leave the socket "ready" in poll(2)
        # for ever, and a server that polls would spin. How many wait is not known: fill the queue.
        try:
            for _ in range(_MOST_KNOCKS):
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
                    if sys.platform == "linux":
                        knock.bind(b"\0" + secrets.token_hex(8).encode() + _CLOSED)
                    knock.setblocking(False)
                    knock.connect(self.path)
        except BlockingIOError:
            pass  # it is full: nobody waits
        except OSError as e:  # no descriptor to knock with, or the path is gone: so by force
            log.info("a listener ends by a shutdown, because: %s", e)
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)


_numbers = itertools.count()


# What `await listener.accept()` wants.
_WAITS = "`await loop.sock_accept(listener)` waits for one, as does asyncio.start_server(sock=...)"


class Accepted(tuple[TailnetSocket, Address]):
    """What accept() returns: a pair, as of any socket, and nothing to await."""

    __slots__ = ()

    if not TYPE_CHECKING:  # checkers know that there is no such thing

        def __await__(self) -> NoReturn:
            raise TypeError(f"accept() returns a connection, and waits for none; {_WAITS}")


class TailnetListener(TcpLike):
    """A listening socket on the tailnet, for everything that takes one.

    Made by `tn.listen()`. `accept()` returns (TailnetSocket, (ip, port)); it, its timeouts and
    `setblocking` are those of `socket.socket`. Connections begin with the options that were set on
    it, as with the kernel's accept, also those that C code accepts. Other processes may accept on
    it while this one's node feeds it: children after a fork, and whoever is given it through
    multiprocessing.

    Closing the last of a listener and its views (`dup`, `as_inet`) gives the port back; so does
    closing the node. A thread that sits in accept() then gets a ConnectionAbortedError; so does a
    task, when the node is closed. (A task that waits on a descriptor which somebody closes hears
    nothing, in asyncio: cancel it first.)
    """

    __slots__ = ("_identity", "_listening", "_release")

    def __init__(self, fileno: int, listening: Listening, *, inet: bool = False) -> None:
        super().__init__(fileno, listening.own_address(), inet=inet, usual=listening.usual)
        self._listening = listening
        self._release = listening.retain(self)
        self._identity = _inode(fileno)

    def __repr__(self) -> str:
        state = "closed" if self.fileno() < 0 else f"fd={self.fileno()}"
        return f"<{type(self).__name__} {state}, own={self._own}>"

    def _number(self) -> int:
        return self._listening.handle

    def accept(self) -> tuple[TailnetSocket, Address]:
        """Return the next connection and its peer's (ip, port).

        The ip is text, as any socket has it; the addresses of a node and of the models are objects.
        `tn.is_own(peer)` and `tn.status().peer(peer)` take either.

        Raises:
            TimeoutError: none came within `settimeout()`.
            BlockingIOError: the listener is non-blocking, and none is there.
            ConnectionAbortedError: the listener or its node was closed.
        """
        listening = self._listening
        while True:
            if listening.ended and self.fileno() >= 0:
                self.setblocking(False)  # take what says so, without waiting
            try:
                fd, name = cast("_Accept", super())._accept()
            except OSError as e:
                if isinstance(e, BlockingIOError):
                    e.strerror = f"no connection waits, and this listener is non-blocking; {_WAITS}"
                over = isinstance(e, BlockingIOError) if listening.ended else False
                if not over and e.errno != errno.EINVAL:  # EINVAL: after a shutdown
                    raise
                break
            if listening.ends_with(name):
                os.close(fd)
                break
            peer = parse_peer_name(name)
            connection = TailnetSocket(
                fd,
                own=listening.own_address(peer.address[0] if peer else None),
                peer=peer.address if peer else ("", 0),
                connection=peer.connection if peer and listening.local else 0,
                whole=peer.whole if peer else False,
                keeps=listening.node,
                inet=self._inet,
                usual=self._usual,
            )
            ours = listening.is_of_the_node(connection)
            if ours and isinstance(name, bytes) and name.endswith(_CLOSED):
                connection.close()
                listening.end()  # the library says that no more will come
                break
            if peer is not None and ours:
                connection._inherit(self)
                # As socket.accept: a new socket blocks, whatever this one does, and macOS is told.
                if self.gettimeout() is not None and socket.getdefaulttimeout() is None:
                    connection.setblocking(True)
                return Accepted((connection, peer.address))
            connection.close()  # somebody on this machine, who is no peer
        # Not any OSError: of this one event loops make no noise.
        raise ConnectionAbortedError(errno.ECONNABORTED, "this listener or its node was closed")

    def dup(self) -> TailnetListener:
        """Return another listener on the same port, not inheritable."""
        return self._view(inet=self._inet)

    def as_inet(self) -> TailnetListener:
        """Return a view of this listener whose `family`, and its connections', is that of TCP.

        For servers that hide the peer of a unix socket (hypercorn, waitress). Not for what works
        on the descriptor in C: uvloop treats it as one of TCP and fails, and an SSLSocket of it has
        no readable address.
        """
        return self._view(inet=True)

    def plain(self) -> socket.socket:
        """Return an exact `socket.socket` on the same descriptor, for code that insists on one.

        Its accept() names the peer as the kernel does; `tn.whois()` understands that. Closing it
        does not give the port back: close this listener, or the node, for that. Who waits in its
        accept() is then woken by connections that have ended, named ".../0/closed" on Linux, and
        none comes after them.
        """
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, os.dup(self.fileno()))
        give_timeout(plain, self.gettimeout())
        self._listening.node.pinned.add(self)  # dropped by its user, it must go on
        return plain

    def detach(self) -> int:
        """Give the descriptor away, as uvloop and `SSLContext.wrap_socket` have it done.

        The port is listened on until close() is called here, or the node is closed.
        """
        if self.fileno() >= 0:
            self._listening.node.pinned.add(self)
        return super().detach()

    def close(self) -> None:
        """Close this view; with the last one, stop listening. Idempotent.

        A server may have closed the descriptor before: it is then left alone.
        """
        self._listening.node.pinned.discard(self)
        self._release()
        if self.fileno() >= 0 and _inode(self.fileno()) != self._identity:
            super().detach()  # closed; and the number may be somebody else's by now
        super().close()

    def __exit__(self, *_: object) -> None:
        self.close()  # detached, too: socket.socket takes that for closed

    def _view(self, *, inet: bool) -> TailnetListener:
        view = type(self)(os.dup(self.fileno()), self._listening, inet=inet)
        give_timeout(view, self.gettimeout())
        view._options, view._acting = self._options, self._acting
        return view


def _inode(fileno: int) -> tuple[int, int] | None:
    """Return what tells a descriptor's file from any other; None where it is closed."""
    try:
        found = os.fstat(fileno)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _peer_pid(connection: socket.socket) -> int:
    """Return the process that made a connection."""
    ask = socket.socket.getsockopt  # and no override: it is asked for each connection
    if sys.platform == "linux":
        credentials = ask(connection, socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, _, _ = struct.unpack("3i", credentials)  # struct ucred: pid, uid, gid
    else:
        sol_local, local_peerpid = 0, 2  # macOS, <sys/un.h>; Python has no names for them
        pid = ask(connection, sol_local, local_peerpid)
    return int(pid)
