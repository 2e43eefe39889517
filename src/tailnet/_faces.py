"""What the two faces share: their base classes, and how one says that it is not the other.

Nothing here waits, and nothing knows how anything is done.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from ._node import asking
from ._node.node import LocalNode
from .config import TailnetConfig
from .models._base import IPAddress

# What http.client and others pass to mean "as socket.setdefaulttimeout() has it".
DEFAULT_TIMEOUT = cast("float | None", getattr(socket, "_GLOBAL_DEFAULT_TIMEOUT", None))

# What is waited for, in words that follow "waiting for".
WATCHING = "an event of the node"
CAPTURING = "the capture to end"

# Seconds that the end of a capture is waited for; it takes 0.15 (go/internal/session/capture.go).
CAPTURE_END = 10.0

T = TypeVar("T")

WhoIsTarget = Any  # an address in any form, or a connection


class WrongWith(TypeError, AttributeError):
    """Raised by the wrong one of `with` and `async with`; to hasattr() the method is absent."""


class _Elsewhere:
    """A special method that a class has not, whose absence says which class has it."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise WrongWith(self._words)


# Of the two methods of a protocol, the one that Python looks up first. Not both: then isinstance()
# would take the class for a context manager of the other kind.
_FIRST = "exit__" if sys.version_info >= (3, 14) else "enter__"


def for_with(cls: type[T]) -> type[T]:
    """Have `async with` say what the class is for."""
    words = f"{cls.__name__} is for `with`; `async with` takes an Async{cls.__name__}"
    setattr(cls, f"__a{_FIRST}", _Elsewhere(words))
    return cls


def for_async_with(cls: type[T]) -> type[T]:
    """Have `with` say what the class is for."""
    words = f"{cls.__name__} is for `async with`; `with` takes a {cls.__name__[len('Async') :]}"
    setattr(cls, f"__{_FIRST}", _Elsewhere(words))
    return cls


class TailnetBase:
    """A tailnet that is not joined yet: a configuration, and the node it will be."""

    def __init__(self, config: TailnetConfig | None = None, /, **fields: Any) -> None:
        given: Any = config
        if not isinstance(given, TailnetConfig | None):
            kind = type(given).__name__  # and not what is in it: it may be a key
            del config, given
            fields.clear()
            raise TypeError(
                f"want a TailnetConfig, or fields by name (hostname='api'), and not a {kind}"
            )
        try:
            if config is None:
                config = TailnetConfig(**fields)
            elif fields:
                config = config.model_copy(update=fields)
        finally:
            fields.clear()  # crash reporters send away the variables of a traceback's frames
        self._node = LocalNode(config)

    if not TYPE_CHECKING:  # checkers know what there is
        _joins = ""

        def __getattr__(self, name: str) -> Any:
            joined = any(hasattr(handle, name) for handle in HandleBase.__subclasses__())
            hint = f": {self._joins} the handle that has" if joined else ""
            raise AttributeError(f"a {type(self).__name__} has no {name!r}{hint}")

    @property
    def config(self) -> TailnetConfig:
        """The configuration."""
        return self._node.config

    def __repr__(self) -> str:
        node = vars(self).get("_node", "not made")  # reporters show one whose fields were refused
        return f"<{type(self).__name__} {node!r}>"


class HandleBase:
    """A node that has joined: what control assigned, not what was asked for."""

    def __init__(self, node: LocalNode) -> None:
        self._node = node

    @property
    def hostname(self) -> str:
        """The node's name, the first label of `fqdn`."""
        return self._node.hostname

    @property
    def fqdn(self) -> str:
        """The node's MagicDNS name, fully qualified; "" where MagicDNS is off."""
        return self._node.fqdn

    @property
    def ip(self) -> IPAddress:
        """The node's IPv4 address, or its IPv6 one where there is no other.

        It is an object of `ipaddress`, as all addresses in `tailnet.models` are; `str()` of it is
        the text. Sockets have texts, as in `accept()` and `getpeername()`, and no text equals an
        object: compare with `is_own()`, and find peers with `status().peer()`.
        """
        return min(self._node.ips, key=lambda ip: ip.version)

    @property
    def ips(self) -> tuple[IPAddress, ...]:
        """All addresses of the node."""
        return self._node.ips

    def is_own(self, target: WhoIsTarget) -> bool:
        """Report whether an address is this node's.

        Args:
            target: An IP address as text or object, an address as accept() returns it, or a
                connection, for its peer.

        Raises:
            TailnetConfigError: `target` is no IP address and has none.
        """
        return asking.is_own(self._node, target)

    @property
    def config(self) -> TailnetConfig:
        """The configuration it joined with."""
        return self._node.config

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._node.closed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._node!r}>"
