"""What tests ask of listeners."""

from __future__ import annotations

import errno

from tailnet import TailnetHandle, TailnetListener, TailnetListenError


def is_taken(node: TailnetHandle, port: int) -> bool:
    """Report whether something listens on a port of a node."""
    try:
        node.listen(f":{port}").close()
    except TailnetListenError as e:
        return e.errno == errno.EADDRINUSE
    return False


def wait_in_accept(listener: TailnetListener) -> BaseException | None:
    """Sit in accept as a thread does; return what ended it."""
    try:
        listener.accept()[0].close()
    except OSError as e:
        return e
    return None
