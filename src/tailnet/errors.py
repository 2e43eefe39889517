"""Every error of the library, and the one table from return code to class.

    TailnetError                      .code  .retryable
    ├── TailnetConfigError            (ValueError)        a bad value; raised before anything starts
    ├── TailnetAuthError                                  the key or the node is refused
    │   ├── TailnetLoginRequired      .url                a person must log in
    │   └── TailnetApprovalRequired                       an admin must approve the machine
    ├── TailnetConnectError           (ConnectionError)   control unreachable; RETRYABLE
    ├── TailnetNotRunning                                 tailscaled absent, stopped, forbidden
    ├── TailnetTimeout                (TimeoutError)      a deadline of the caller's passed
    ├── TailnetDialError              (OSError)           the other side, or the way to it
    │   ├── TailnetRefused            (ConnectionRefusedError)
    │   ├── TailnetUnreachable                            not on the tailnet, or no route
    │   └── TailnetNameError          (socket.gaierror)   the name is not known on the tailnet
    ├── TailnetListenError            (OSError)           the port or address cannot be had
    ├── TailnetResourceError          (OSError)           no more descriptors, memory or disk
    ├── TailnetPeerNotFound           (LookupError)       whois: nobody has that address
    ├── TailnetStateLocked                                the state directory is held by another
    ├── TailnetUnsupported            (OSError)           this backend, platform or tailnet cannot
    ├── TailnetClosed                                     used after close
    ├── TailnetForked                                     used in a forked child
    └── TailnetInternalError                              a bug in this library

Rules of this file: a class is also the builtin that Python code already catches; whether trying
again can help is a property of the class; a message says what happened, to what, why, and what to
do. Names without "Error" are the specification's.
"""

from __future__ import annotations

import enum
import errno
import socket
from collections.abc import Mapping
from typing import Any, ClassVar

from ._text import printable

__all__ = [
    "Code",
    "TailnetApprovalRequired",
    "TailnetAuthError",
    "TailnetClosed",
    "TailnetConfigError",
    "TailnetConnectError",
    "TailnetDialError",
    "TailnetError",
    "TailnetForked",
    "TailnetInternalError",
    "TailnetListenError",
    "TailnetLoginRequired",
    "TailnetNameError",
    "TailnetNotRunning",
    "TailnetPeerNotFound",
    "TailnetRefused",
    "TailnetResourceError",
    "TailnetStateLocked",
    "TailnetTimeout",
    "TailnetUnreachable",
    "TailnetUnsupported",
    "error_from_document",
]


class Code(enum.IntEnum):
    """The return codes of go/tailnet.h."""

    OK = 0
    PENDING = 7001
    ARGUMENT = 7002
    INTERNAL = 7003
    HANDLE = 7004
    CONFIG = 7005
    AUTH = 7006
    LOGIN_REQUIRED = 7007
    APPROVAL_REQUIRED = 7008
    CONNECT = 7009
    NOT_RUNNING = 7010
    TIMEOUT = 7011
    DIAL = 7012
    REFUSED = 7013
    UNREACHABLE = 7014
    NAME = 7015
    ADDRESS_IN_USE = 7016
    ADDRESS_NOT_AVAILABLE = 7017
    STATE_LOCKED = 7018
    UNSUPPORTED = 7019
    CLOSED = 7020
    NOT_FOUND = 7021
    RESET = 7022
    RESOURCE = 7023


class TailnetError(Exception):
    """The base of every error of this library.

    Attributes:
        code: The return code behind it, one of `Code`.
        retryable: Whether the same call may succeed if it is made again later.
    """

    code: int = Code.INTERNAL
    retryable: ClassVar[bool] = False
    __module__ = "tailnet"

    def __init__(self, message: str = "", *, code: int | None = None) -> None:
        message = printable(message)
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__ == __name__:
            cls.__module__ = "tailnet"  # as users import them

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        state = dict(self.__dict__)
        if isinstance(self, OSError):  # its attributes are not in __dict__
            state |= {"errno": self.errno, "strerror": self.strerror}
        return _rebuild, (type(self), self.message, state)


def _rebuild(cls: type[TailnetError], message: str, state: dict[str, Any]) -> TailnetError:
    error = cls(message)
    for name, value in state.items():
        setattr(error, name, value)
    return error


class TailnetConfigError(TailnetError, ValueError):
    """A value cannot be used. Nothing was started."""

    code = Code.CONFIG


class TailnetAuthError(TailnetError):
    """The control server refuses the key or the node: it is invalid, expired, used or revoked."""

    code = Code.AUTH


class TailnetLoginRequired(TailnetAuthError):
    """There is no usable key, and a person must log in at `url`.

    The node stays pending until its `Tailnet` is closed: the next `up()` goes on with this login.
    """

    code = Code.LOGIN_REQUIRED
    url: str = ""


class TailnetApprovalRequired(TailnetAuthError):
    """The machine has logged in and waits for an admin of the tailnet.

    The node stays pending until its `Tailnet` is closed: each `up()` looks whether it is approved,
    for a second, and with `on_login` until it is.
    """

    code = Code.APPROVAL_REQUIRED


class TailnetConnectError(TailnetError, ConnectionError):
    """The control server cannot be reached, or cannot answer now.

    Attributes:
        retry_after: Seconds to wait before the next attempt, where the server, or Tailscale's code
            for it, has limited the rate of registrations; else None. It is as long as the server
            says: `RetryPolicy.max_retry_after` bounds what `up()` waits.
    """

    code = Code.CONNECT
    retryable = True
    retry_after: float | None = None


class TailnetNotRunning(TailnetError):
    """There is no usable tailscaled: absent, stopped, logged out or not permitted."""

    code = Code.NOT_RUNNING


class TailnetTimeout(TailnetError, TimeoutError):
    """A deadline of the caller's passed; the message says what was waited for."""

    code = Code.TIMEOUT


class _SystemError(TailnetError, OSError):
    """An error with an errno, as sockets have them."""

    default_errno: ClassVar[int] = errno.EIO

    def __init__(self, message: str = "", *, code: int | None = None, number: int = 0) -> None:
        super().__init__(message, code=code)
        self.errno = number or self.default_errno
        self.strerror = self.message


class TailnetDialError(_SystemError):
    """A dial failed; `errno` is that of the nearest system error."""

    code = Code.DIAL


class TailnetRefused(TailnetDialError, ConnectionRefusedError):
    """The other side is there and refused the connection."""

    code = Code.REFUSED
    default_errno = errno.ECONNREFUSED


class TailnetUnreachable(TailnetDialError):
    """The address is not on the tailnet, or nothing routes to it, or it does not answer."""

    code = Code.UNREACHABLE
    default_errno = errno.EHOSTUNREACH


class TailnetNameError(TailnetDialError, socket.gaierror):
    """The tailnet knows no such name."""

    code = Code.NAME
    default_errno = socket.EAI_NONAME


class TailnetListenError(_SystemError):
    """The port is taken (EADDRINUSE), or the address is not this node's (EADDRNOTAVAIL)."""

    code = Code.ADDRESS_IN_USE
    default_errno = errno.EADDRINUSE


class TailnetResourceError(_SystemError):
    """This machine has run out of something; `errno` says of what (EMFILE, ENOSPC, ...).

    The same call succeeds once there is room again.
    """

    code = Code.RESOURCE
    default_errno = errno.EMFILE


class TailnetPeerNotFound(TailnetError, LookupError):
    """Nobody on the tailnet has the address that was asked for."""

    code = Code.NOT_FOUND


class TailnetStateLocked(TailnetError):
    """Another node, of this or another process, holds the state directory."""

    code = Code.STATE_LOCKED


class TailnetUnsupported(_SystemError):
    """This backend, platform or tailnet cannot do it; the message says what can.

    An OSError too: the standard library's servers pass over one that a half-close raises.
    """

    code = Code.UNSUPPORTED
    default_errno = errno.EOPNOTSUPP


class TailnetClosed(TailnetError):
    """The node, or what belonged to it, was closed."""

    code = Code.CLOSED


class TailnetForked(TailnetError):
    """Called in a forked child; the Go runtime lives only in the parent."""

    code = Code.CLOSED


class TailnetInternalError(TailnetError):
    """A bug in this library; please report it."""

    code = Code.INTERNAL

    def __str__(self) -> str:
        return f"{self.message}; this is a bug in tailnet: please report it"


# The one table; a test holds it against the header.
CLASSES: Mapping[Code, type[TailnetError]] = {
    Code.ARGUMENT: TailnetInternalError,
    Code.INTERNAL: TailnetInternalError,
    Code.HANDLE: TailnetClosed,
    Code.CONFIG: TailnetConfigError,
    Code.AUTH: TailnetAuthError,
    Code.LOGIN_REQUIRED: TailnetLoginRequired,
    Code.APPROVAL_REQUIRED: TailnetApprovalRequired,
    Code.CONNECT: TailnetConnectError,
    Code.NOT_RUNNING: TailnetNotRunning,
    Code.TIMEOUT: TailnetTimeout,
    Code.DIAL: TailnetDialError,
    Code.REFUSED: TailnetRefused,
    Code.UNREACHABLE: TailnetUnreachable,
    Code.NAME: TailnetNameError,
    Code.ADDRESS_IN_USE: TailnetListenError,
    Code.ADDRESS_NOT_AVAILABLE: TailnetListenError,
    Code.STATE_LOCKED: TailnetStateLocked,
    Code.UNSUPPORTED: TailnetUnsupported,
    Code.CLOSED: TailnetClosed,
    Code.NOT_FOUND: TailnetPeerNotFound,
    Code.RESET: TailnetDialError,
    Code.RESOURCE: TailnetResourceError,
}


def error_from_document(document: Mapping[str, Any]) -> TailnetError:
    """Make the exception for an error document of go/tailnet.h."""
    code = document.get("code", Code.INTERNAL)
    try:
        cls = CLASSES[Code(code)]
    except (ValueError, KeyError):
        cls = TailnetInternalError
    message = document.get("message", "the library gave no reason")
    if issubclass(cls, _SystemError):
        number = document.get("errno", 0)
        if code == Code.ADDRESS_NOT_AVAILABLE:
            number = errno.EADDRNOTAVAIL
        return cls(message, code=code, number=0 if cls is TailnetNameError else number)
    error = cls(message, code=code)
    if isinstance(error, TailnetLoginRequired):
        error.url = printable(document.get("url", ""))
    if isinstance(error, TailnetConnectError):
        error.retry_after = document.get("retry_after")
    return error
