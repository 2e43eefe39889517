"""A node of this process: how it joins and leaves, once, for both faces.

Rules of this file:

- Slow operations are generators of the protocol in _engine/wait.py; the two faces run them, and add
  nothing but the waiting.
- `LocalNode` owns the library's handle. It is created by the first up(), because only then are
  variables and files behind the configuration read, and given back by close().
- In a forked child everything raises TailnetForked, and nothing is torn down.
- A node that is no longer referenced is closed, with a ResourceWarning; at interpreter exit every
  node is closed, so that what was written arrives and peers see their connections end.

Questions to a node are in asking.py; listening and dialing, in listening.py and dialing.py. The
waiting is in _engine/wait.py, the calls in _engine/lib.py.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import ipaddress
import json
import logging
import math
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Generator
from typing import Any, NoReturn

from pydantic import SecretStr

from .._configuration.settings import way_in
from .._engine import held, lib, logs, ops, scratch
from .._engine.fd import Fd
from .._engine.wait import Call, Steps, wait
from .._sockets.listener import Listening, TailnetListener
from .._text import printable, quoted
from ..config import TailnetConfig
from ..errors import (
    TailnetClosed,
    TailnetConfigError,
    TailnetConnectError,
    TailnetError,
    TailnetInternalError,
    TailnetLoginRequired,
    TailnetTimeout,
)
from ..models import WhoIs
from ..models._base import IPAddress

log = logging.getLogger("tailnet")

OnLogin = Callable[[str], object]

# How long connections may take to deliver what was written, when a node closes.
CLOSE_TIMEOUT = 3.0
# What the library may take after that: it gives tsnet's own Close 3 s, and a managed daemon 2 s to
# send what it has and 2 s to end (go/internal/sidecar).
_CLOSE_MARGIN = 4.0


class LocalNode:
    """A node, from before it joins until after it has left."""

    def __init__(self, config: TailnetConfig) -> None:
        self.config = config
        self.hostname = ""
        self.fqdn = ""
        self.ips: tuple[IPAddress, ...] = ()
        self._own_ips: dict[int, str] = {}
        self.joined = False
        self.closed = False
        self.listening: weakref.WeakSet[Listening] = weakref.WeakSet()
        # Listeners whose descriptor has gone elsewhere: they go on although nobody holds them.
        self.pinned: set[TailnetListener] = set()
        self._lock = threading.RLock()  # a signal handler may close what its thread is making
        self._handle = 0
        self._interrupted: Fd | None = None  # the end that an interrupted close() waited for
        self._document: SecretStr | None = None  # what the handle was made of
        held.add(self)
        self.people: dict[str, tuple[int, WhoIs]] = {}  # what whois() has answered, and when

    @property
    def is_open(self) -> bool:
        """Whether the library has it."""
        return self._handle != 0

    @property
    def name(self) -> str:
        """The name it was given, or asks for."""
        return self.hostname or self.config.called()

    def __repr__(self) -> str:
        where = f"{self.fqdn} {self.ips[0]}" if self.joined else self.config.called()
        state = "closed" if self.closed else "up" if self.joined else "not joined"
        return f"{where} {self.config.backend} {state}"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"node {self.name!r} belongs to the process that joined it: give another one its "
            "address, or let that join by itself"
        )

    def __del__(self) -> None:
        if getattr(self, "_handle", 0) and lib.usable():
            held.dropped(self)
            with contextlib.suppress(TailnetError):
                self._leave(CLOSE_TIMEOUT)
            if self.joined:  # last: a program may have made warnings errors
                warnings.warn(
                    f"unclosed tailnet node {self!r}", ResourceWarning, stacklevel=2, source=self
                )

    # --- joining and leaving ------------------------------------------------------------------

    def up(self, timeout: float | None, on_login: OnLogin | None) -> Steps[None]:
        """Join, with retries."""
        deadline = ops.deadline_of(timeout)
        if on_login is not None and not callable(on_login):
            raise TailnetConfigError(
                f"on_login: want a function of the URL, and not {quoted(on_login)}"
            )
        args = {"wait_for_person": on_login is not None, "known_url": ""}
        policy = self.config.retry
        cause: TailnetConnectError | None = None
        retry = 0
        while True:
            url = ""
            try:
                yield from self._attempt(args, deadline)
            except TailnetLoginRequired as e:
                if on_login is None:
                    raise
                url = e.url
            except TailnetConnectError as e:
                cause = e
            except TailnetTimeout as e:
                raise e from cause
            else:
                return
            if on_login is not None and url:
                args["known_url"] = url
                yield Call(functools.partial(on_login, url), "on_login")
                continue
            assert cause is not None  # noqa: S101 - one of the two brought us here
            retry += 1
            if retry > policy.retries:
                raise _after(retry, cause)
            delay = policy.delay(retry, retry_after=cause.retry_after)
            log.warning(
                "[%s] %s; retry %d of %d in %.1f s", self.name, cause, retry, policy.retries, delay
            )
            if not (yield from ops.sleep(delay, deadline)):
                raise TailnetTimeout(
                    f"timed out before retry {retry} of {policy.retries}; the last attempt: {cause}"
                ) from cause

    def _attempt(self, args: dict[str, Any], deadline: float | None) -> Steps[None]:
        if self.joined:  # Go knows whether it was removed since, and waits for nothing
            handle, deadline = self.handle(), None
        else:
            handle = yield from self._made(deadline)
        with self.or_closed():
            answer = yield from ops.reply(
                lib.node_up(handle, args), deadline, f"node {self.name!r} to join the tailnet"
            )
        self.hostname, self.fqdn = printable(answer["hostname"]), printable(answer["fqdn"])
        self.ips = tuple(ipaddress.ip_address(ip) for ip in answer["ips"])
        self._own_ips = {ip.version: str(ip) for ip in reversed(self.ips)}  # the first of each
        self.joined = True
        self._document = None  # its secrets are needed no more

    def _require_open(self) -> None:
        if self.closed:
            raise _closed(self)

    def _made(self, deadline: float | None) -> Steps[int]:
        """Return the library's handle, made of what the configuration says now.

        A pending node is kept while that is the same; a key that was replaced since a failure
        takes effect with a new one.
        """
        lib.require_real_sockets()
        lib.require_usable()
        document = _document(self.config)
        with self._lock:
            self._require_open()
            if self._handle and (self.joined or self._document == document):
                return self._handle
            former = self._leave(0.0) if self._handle else None
        yield from ops.reply(former, deadline, f"the former node {self.name!r} to leave")
        with self._lock:
            self._require_open()
            if not self._handle:
                from .._sockets import handover  # noqa: F401 # pyright: ignore[reportUnusedImport]

                scratch.sweep()
                self._make(document)
                self._document = document
                if ignored := self.config.ignored():
                    log.warning("[%s] not used: %s", self.name, ignored)
            return self._handle

    def _make(self, document: SecretStr) -> None:
        """Make the library's node; nothing of it is left after an error."""
        kept = False

        def keep(handle: int) -> None:
            nonlocal kept
            self._handle, kept = handle, True

        logs.reader.retain()
        try:
            lib.node_new(document, keep)
            self._require_open()  # a signal handler may have closed it meanwhile
        except BaseException:
            if self._handle:
                self._leave(0.0)
            elif not kept:  # else close() has taken the handle, and released this
                logs.reader.release()
            raise

    def close(self, timeout: float) -> Steps[None]:
        """Drain for at most `timeout` seconds and leave."""
        deadline = ops.deadline_of(timeout)
        if deadline is None:
            timeout = math.inf  # None, from callers who do not check types
        else:
            deadline += _CLOSE_MARGIN
        # After a close that was interrupted, this one waits for the same end.
        leaving, self._interrupted = self.start_closing(timeout) or self._interrupted, None
        if leaving is None or leaving.fileno() < 0:  # _forget_left has seen that end
            return
        _leaving.discard(leaving)
        try:
            answer = yield from ops.answer(leaving, deadline, f"node {self.name!r} to leave")
        except TailnetTimeout as e:  # it goes on by itself; the handle is gone
            log.warning("[%s] %s", self.name, e)
        except TailnetError:
            raise
        except BaseException:
            self._interrupted = leaving
            _leaving.add(leaving)
            raise
        else:
            if not answer["drained"]:
                log.warning(
                    "[%s] connections were cut off after %.1f s of closing", self.name, timeout
                )
        leaving.close()

    def start_closing(self, timeout: float) -> Fd | None:
        """Begin to leave; None where there is nothing to wait for."""
        if lib.forked():  # before the lock: a thread of the parent may have held it
            if self._handle:
                lib.require_usable()
            return None
        _forget_left()
        with self._lock:
            self.closed = True
            return self._leave(timeout) if self._handle else None

    def _leave(self, timeout: float) -> Fd | None:
        handle, self._handle = self._handle, 0
        self._document = None
        try:
            leaving = lib.node_close(handle, timeout)
        finally:
            # After the call, which refuses new connections: wake every accept, also in children.
            for listening in list(self.listening):
                listening.end()
            for listener in list(self.pinned):
                listener.close()
            logs.reader.release()
        return leaving if isinstance(leaving, Fd) else None

    def is_ours(self) -> bool:
        """Report whether leaving is this process's business: not in a forked child."""
        return not self._handle or lib.usable()

    def handle(self) -> int:
        """Return the library's handle of a node that is up.

        Raises:
            TailnetClosed: it was closed.
            TailnetUnsupported: gevent or eventlet has patched the process since.
        """
        if not self._handle:
            raise _closed(self)
        lib.require_real_sockets()
        return self._handle

    # --- for what is asked of it (asking.py) and made with it (listening.py, dialing.py) ----------

    @contextlib.contextmanager
    def or_closed(self) -> Generator[None]:
        """Say that the node was closed, whatever a call says that was overtaken by the close."""
        try:
            yield
        except (TailnetClosed, TailnetInternalError):
            if self.closed:
                raise _closed(self) from None
            raise

    def own_ip(self, peer: str | None = None) -> str:
        """Return this node's address, of the peer's family where it has one."""
        version = 6 if peer is not None and ":" in peer else 4
        return self._own_ips.get(version) or str(self.ips[0])  # asked for each connection


@way_in
def _document(config: TailnetConfig) -> SecretStr:
    """Return the document of tailnet_node_new, so that who shows variables shows no key."""
    return SecretStr(json.dumps(config.to_native()))


def _closed(node: LocalNode) -> TailnetClosed:
    state = "was closed" if node.closed else "has not joined"
    return TailnetClosed(f"node {node.name!r} {state}; make a new Tailnet to join again")


def _after(attempts: int, cause: TailnetConnectError) -> TailnetConnectError:
    """Return the last attempt's error, saying how many there were."""
    if attempts == 1:
        return cause
    error = TailnetConnectError(f"{cause} (the last of {attempts} attempts)", code=cause.code)
    error.retry_after = cause.retry_after
    return error


# The answers to come for closes that were interrupted. They go on in the background, but not beyond
# the end of the process: an interrupt that ends the program would cut connections off.
_leaving: set[Fd] = set()


def _forget_left() -> None:
    """Give back the descriptors of interrupted closes that have ended since."""
    for fd in list(_leaving):
        with contextlib.suppress(BlockingIOError):
            fd.receive()
            _leaving.discard(fd)
            fd.close()


@atexit.register
def _close_all() -> None:
    """Close every node, all at the same time, when the interpreter ends."""
    if not lib.usable():
        return
    for node in held.all_of(LocalNode):
        with contextlib.suppress(TailnetError):
            if (fd := node.start_closing(CLOSE_TIMEOUT)) is not None:
                _leaving.add(fd)
    # With the margin: a daemon that was run for a node must not be killed while it still sends.
    deadline = time.monotonic() + CLOSE_TIMEOUT + _CLOSE_MARGIN
    for fd in _leaving:
        with contextlib.suppress(TailnetError):
            wait(ops.reply(fd, deadline, "a node to leave"))
