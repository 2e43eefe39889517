"""Put a Python program on a tailnet: its own hostname, IP and identity; no daemon, no root.

    with graceful(), Tailnet(TailnetConfig(hostname="api")) as tn:
        with tn.listen(":443") as listener:
            conn, peer = listener.accept()
            print(tn.whois(conn).user.login)

`Tailnet` is a tailnet not yet joined; entering it gives a `TailnetHandle`, the live connection.
`AsyncTailnet` and `AsyncTailnetHandle` are the same for asyncio and trio. `graceful()` makes
SIGTERM end a program as Ctrl-C does. `tailnet.models` has what they answer, `tailnet.testing` an
offline tailnet for tests. Importing this starts nothing.

Read next: _tailnet_async.py, of which _tailnet.py is the synchronous form.
"""

import logging as _logging

from . import models
from ._engine.signals import graceful
from ._engine.versions import versions
from ._sockets.connection import TailnetSocket
from ._sockets.listener import TailnetListener
from ._tailnet import Capture, Tailnet, TailnetHandle, Watch
from ._tailnet_async import AsyncCapture, AsyncTailnet, AsyncTailnetHandle, AsyncWatch
from ._version import __version__
from .config import TailnetConfig
from .errors import (
    TailnetApprovalRequired,
    TailnetAuthError,
    TailnetClosed,
    TailnetConfigError,
    TailnetConnectError,
    TailnetDialError,
    TailnetError,
    TailnetForked,
    TailnetInternalError,
    TailnetListenError,
    TailnetLoginRequired,
    TailnetNameError,
    TailnetNotRunning,
    TailnetPeerNotFound,
    TailnetRefused,
    TailnetResourceError,
    TailnetStateLocked,
    TailnetTimeout,
    TailnetUnreachable,
    TailnetUnsupported,
)
from .retry import RetryPolicy

__all__ = [
    "AsyncCapture",
    "AsyncTailnet",
    "AsyncTailnetHandle",
    "AsyncWatch",
    "Capture",
    "RetryPolicy",
    "Tailnet",
    "TailnetApprovalRequired",
    "TailnetAuthError",
    "TailnetClosed",
    "TailnetConfig",
    "TailnetConfigError",
    "TailnetConnectError",
    "TailnetDialError",
    "TailnetError",
    "TailnetForked",
    "TailnetHandle",
    "TailnetInternalError",
    "TailnetListenError",
    "TailnetListener",
    "TailnetLoginRequired",
    "TailnetNameError",
    "TailnetNotRunning",
    "TailnetPeerNotFound",
    "TailnetRefused",
    "TailnetResourceError",
    "TailnetSocket",
    "TailnetStateLocked",
    "TailnetTimeout",
    "TailnetUnreachable",
    "TailnetUnsupported",
    "Watch",
    "__version__",
    "graceful",
    "models",
    "versions",
]

# Without a handler of the program's, warnings would be printed: a library does not print.
_logging.getLogger("tailnet").addHandler(_logging.NullHandler())
