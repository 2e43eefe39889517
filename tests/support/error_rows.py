"""What a row of the table of errors is, and where it happens; the rows are in test_error_table."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

import tailnet
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
    secrets: set[str]
    began: float = 0.0

    def up(self, net: Testnet | None = None, **fields: Any) -> TailnetHandle:
        """Join with these settings, once, to a tailnet of its own or the common one."""
        net = net or self.net
        key = SecretStr(net.auth_key) if net.auth_key else None
        fields = {"retry": ONCE, "log_level": "debug", "auth_key": key, **fields}
        tailnet = Tailnet(net.config("node", **fields))
        self.stack.callback(tailnet.close)
        self.began = time.monotonic()  # starting a control server is not the error's time
        return tailnet.up()

    def testnet(self, **options: Any) -> Testnet:
        """Start a tailnet for this row alone."""
        net = self.stack.enter_context(Testnet(**options))
        self.secrets.add(net.auth_key)
        return net

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


def locals_of(error: BaseException | None) -> Iterator[dict[str, object]]:
    """The library's variables on the way of an error, which crash reporters send away.

    Without those of tailnet.testing: the key of an offline tailnet is no secret.
    """
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            file, package = Path(frame.f_code.co_filename), Path(tailnet.__file__).parent
            if file.is_relative_to(package) and not file.is_relative_to(package / "testing"):
                yield frame.f_locals
        error = error.__cause__ or error.__context__
