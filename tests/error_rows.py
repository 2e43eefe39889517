"""What a row of the table of errors is, and where it happens; the rows are in test_error_table."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from tailnet import RetryPolicy, Tailnet, TailnetError, TailnetHandle
from tailnet.testing import Testnet

ONCE = RetryPolicy(retries=0)
WRONG = "tskey-auth-" + "wrong" * 3  # in no line of source, which tracebacks show

Provoke = Callable[["Place"], object]


@dataclass
class Place:
    """Where a row happens."""

    net: Testnet
    tn: TailnetHandle
    tmp_path: Path
    stack: contextlib.ExitStack
    began: float = 0.0
    secrets: set[str] = field(default_factory=lambda: {WRONG})

    def up(self, net: Testnet | None = None, **fields: Any) -> TailnetHandle:
        """Join with these settings, once, to a tailnet of its own or the common one."""
        net = net or self.net
        self.secrets.add(net.auth_key)
        key = SecretStr(net.auth_key) if net.auth_key else None
        fields = {"retry": ONCE, "log_level": "debug", "auth_key": key, **fields}
        tailnet = Tailnet(net.config("node", **fields))
        self.stack.callback(tailnet.close)
        self.began = time.monotonic()  # starting a control server is not the error's time
        return tailnet.up()

    def testnet(self, **options: Any) -> Testnet:
        """Start a tailnet for this row alone."""
        return self.stack.enter_context(Testnet(**options))

    def broken(self, kind: Any, **options: Any) -> TailnetHandle:
        """Join a control server with a fault."""
        net = self.testnet()
        net.control.fault(kind, **options)
        return self.up(net, connect_timeout=1.0)


@dataclass
class Row:
    """One cause: what is done, and what comes of it."""

    cause: str
    provoke: Provoke
    cls: type[TailnetError]
    within: float  # seconds
    says: str  # in the message: what happened, and to what
    do: str  # also in it: what to do
    builtin: type[BaseException] = Exception
    number: int | None = None  # errno
    note: str = ""
    needs_root: bool = False  # to do it as another user, or to mount a disk
