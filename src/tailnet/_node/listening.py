"""How a listener begins.

The socket is in _sockets/listener.py; how a connection is made the other way, in dialing.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Generator
from typing import TYPE_CHECKING

from .._engine import lib, ops
from .._sockets.listener import Listening, TailnetListener
from ..errors import TailnetConfigError, TailnetResourceError
from .address import address_text

if TYPE_CHECKING:
    from .._engine.wait import Steps
    from .._sockets.connection import Address
    from .node import LocalNode

# What this machine can run out of, and what helps: as in go/internal/fault.
_LACKS = {
    errno.EMFILE: "close some files or sockets, or raise the limit (ulimit -n)",
    errno.ENFILE: "raise this machine's limit (fs.file-max)",
    errno.ENOSPC: "make room in the temporary directory",
    errno.EDQUOT: "make room in the temporary directory",
    errno.ENOMEM: "free some memory",
}

_MOST = (1 << 31) - 1  # connections that wait: an int of C


def listen(
    node: LocalNode,
    address: str | Address,
    backlog: int,
    timeout: float | None,
    *,
    blocking: bool = True,
) -> Steps[TailnetListener]:
    """Make a listener, with the default timeout or non-blocking.

    Where it fails or is given up, nothing is left of it.
    """
    text, deadline = address_text(address), ops.deadline_of(timeout)
    number: object = backlog  # from callers who may not check types
    if type(number) is not int or not 1 <= number <= _MOST:
        raise TailnetConfigError(f"backlog: want a number from 1 to {_MOST}, and not {backlog!r}")
    handle = node.handle()  # before a socket is made
    with _room(node, text):
        listening = Listening(node, backlog)
    try:
        with node.or_closed():
            answer = yield from ops.reply(
                lib.listen(
                    handle,
                    {"address": text, "path": listening.path, "backlog": backlog},
                    listening.keep,
                ),
                deadline,
                f"node {node.name!r} to listen on {text}",
            )
            listening.begin(**answer)
        with _room(node, text):
            listener = TailnetListener(os.dup(listening.socket.fileno()), listening)
        if not blocking:
            listener.setblocking(False)
        return listener
    except BaseException:
        listening.end()
        raise


@contextlib.contextmanager
def _room(node: LocalNode, address: str) -> Generator[None]:
    """Say what it is for that this machine has run out of something."""
    try:
        yield
    except OSError as e:
        if e.errno not in _LACKS:
            raise
        what = f"node {node.name!r} cannot listen on {address}: {e.strerror}"
        raise TailnetResourceError(f"{what}; {_LACKS[e.errno]}", number=e.errno) from e
