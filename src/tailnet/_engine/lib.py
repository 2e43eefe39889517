"""The C contract, as Python functions. The only importer of `tailnet._native`.

Rules of this file:

- The library is loaded by the first call that needs it, never by `import tailnet`: once Go runs,
  a fork is no longer harmless, and Python >= 3.12 warns at every one.
- Every call goes through `_call`: it refuses a forked child before Go is reached (a call there
  may hang for ever, and not even Ctrl-C would help), and turns code and answer into what Python
  understands. That is a document (the library knew the answer at once), an `Fd` on which the
  answer will arrive, or an exception from the table in errors.py.
- What each function does is said in go/tailnet.h, once. None of them waits.

Reading a reply is in ops.py.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import SecretStr

from .._version import __version__
from ..errors import (
    Code,
    TailnetClosed,
    TailnetConfigError,
    TailnetForked,
    TailnetInternalError,
    TailnetUnsupported,
    error_from_document,
)
from . import limits
from .fd import Fd

Document = Any  # what a JSON document decodes to

# For an answer in the call itself. A larger one comes by descriptor; an error is cut to this.
_ROOM = 8 << 10


class _Library:
    """The loaded library, and the process it belongs to."""

    def __init__(self) -> None:
        self.native: Any = None  # the module tailnet._native
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._forked = False
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # another thread of the parent may have held it
        self._forked = self._owner is not None

    def usable(self) -> bool:
        """Report whether Go runs in this process. Never loads it."""
        # The pid as well, because fork in C code runs no Python hook; and the hook as well,
        # because a child in a new pid namespace may have its parent's number.
        return self._owner == os.getpid() and not self._forked and self.native is not None

    def forked(self) -> bool:
        """Report whether it was loaded by a process that this one was forked from."""
        return self._owner is not None and (self._forked or self._owner != os.getpid())

    def open(self) -> Any:
        """Load the library, once.

        Raises:
            TailnetForked: it was loaded before this process was forked.
            TailnetClosed: the program has closed its descriptors.
            TailnetResourceError: a limit of this process leaves it no room.
            ImportError: it is missing, or of another version than the package.
        """
        if self.usable():
            if self.native.lib.tailnet_intact() != Code.OK:
                raise TailnetClosed(
                    "this program has closed descriptors of the library (as os.closerange() and "
                    "recipes for daemons do), and Go aborts the process when it misses them: close "
                    "what must be closed before the first up()"
                )
            return self.native
        if self.forked():
            raise TailnetForked(
                "this process was forked after its parent had joined a tailnet, and the Go "
                "runtime does not survive a fork. Inherited sockets and listeners work; for "
                "anything else use the start method 'spawn' or 'forkserver', or join after the "
                "fork."
            )
        with self._lock:
            if self.native is None:
                limits.check()
                self._owner = os.getpid()  # from the import on there is no way back
                # What _native's C code imports, for PyInstaller, which reads Python only.
                import _cffi_backend  # noqa: F401 # pyright: ignore[reportUnusedImport]

                # Go's threads inherit that. Its handler forgives SIGPIPE only until the program
                # sets the default action, a habit of command lines.
                mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
                try:
                    from .. import _native
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                self._check_version(_native)
                self.native = _native
        return self.native

    @staticmethod
    def _check_version(native: Any) -> None:
        document = _known(_invoke(native, native.lib.tailnet_versions))
        if document["tailnet"] != __version__:
            raise ImportError(
                f"tailnet {__version__} found libtailnet {document['tailnet']} beside it: two "
                "installations are mixed. Install the package again; in a source tree, `make lib`."
            )


_library = _Library()


def usable() -> bool:
    """Report whether the library runs in this very process, so that it may be called."""
    return _library.usable()


def forked() -> bool:
    """Report whether this is a forked child, where the library may not be called."""
    return _library.forked()


def require_usable() -> None:
    """Raise TailnetForked in a forked child; load the library where it is not loaded."""
    _library.open()


def require_real_sockets() -> None:
    """Raise TailnetUnsupported where sockets are those of gevent or eventlet."""
    library = socket.socket.__module__.partition(".")[0]
    if library in {"gevent", "eventlet"}:
        raise TailnetUnsupported(
            f"{library} has replaced this process's sockets by its own, which cannot carry a"
            " tailnet's: run the node in a process that is not patched, and give the patched one"
            f" the descriptor of its listener (docs/servers.md); or use threads or asyncio instead"
            f" of {library}"
        )


def _call(function: str, *arguments: Any, pending: Fd | None = None) -> Document | Fd:
    native = _library.open()
    return _invoke(native, getattr(native.lib, function), *arguments, pending=pending)


def _invoke(
    native: Any, function: Any, *arguments: Any, pending: Fd | None = None
) -> Document | Fd:
    room = native.ffi.new("char[]", _ROOM)
    answer = native.ffi.new("tailnet_answer *", {"buf": room, "cap": _ROOM, "fd": -1})
    pending = pending or Fd()
    try:
        code = function(*map(_encoded, arguments), answer)
        if code == Code.PENDING:
            pending.adopt(answer)
            return pending
    except BaseException:  # a signal handler's, which may run as soon as the call has returned
        pending.adopt(answer)
        pending.cancel()
        raise
    text = native.ffi.unpack(room, answer.len)
    if code == Code.OK:
        return json.loads(text) if text else None
    try:
        document = json.loads(text)
    except ValueError:  # cut: a text of ours that long is one that quotes an argument
        document = {"message": text.decode(errors="replace")}
    raise error_from_document({**document, "code": code})


def _encoded(argument: Any) -> Any:
    if isinstance(argument, SecretStr):
        argument = argument.get_secret_value()
    if isinstance(argument, Mapping):
        argument = json.dumps(argument)
    if not isinstance(argument, str):
        return argument
    if "\0" in argument:  # C would see the part before it
        raise TailnetConfigError(f"{argument!r} holds a NUL character")
    try:
        return argument.encode()
    except UnicodeEncodeError:
        problem = f"{argument!r} holds half a character, which is no text"
    raise TailnetConfigError(problem)


def versions() -> dict[str, str]:
    """Return the versions of the library, of Tailscale's code and of Go."""
    document: dict[str, str] = _known(_call("tailnet_versions"))
    return document


def stats() -> dict[str, int]:
    """Return what the library holds now: goroutines, nodes, listeners, connections, heap."""
    document: dict[str, int] = _known(_call("tailnet_stats"))
    return document


def logs() -> Fd:
    """Open the stream of log lines."""
    return _pending(_call("tailnet_logs"))


def node_new(config: SecretStr, keep: Callable[[int], None]) -> None:
    """Make a node that has not joined; `keep` is given its handle."""
    handle = _library.open().ffi.new("tailnet_handle *")
    try:
        _call("tailnet_node_new", config, handle)
        keep(int(handle[0]))
    except BaseException:  # an interrupt, where nobody else knows the handle
        if handle[0]:
            node_close(int(handle[0]), 0.0)
        raise


def node_up(node: int, args: Mapping[str, Any]) -> Document | Fd:
    """Start one attempt to join."""
    return _call("tailnet_node_up", node, args)


def node_close(node: int, timeout: float) -> Document | Fd:
    """Start to drain and leave. The handle is invalid from now on."""
    return _call("tailnet_node_close", node, int(min(timeout * 1000, (1 << 31) - 1)))


def listen(node: int, args: Mapping[str, Any], keep: Callable[[int], None]) -> Document | Fd:
    """Start to listen; `keep` is given the listener's handle, which is valid already."""
    handle = _library.open().ffi.new("tailnet_handle *")
    try:
        answer = _call("tailnet_listen", node, args, handle)
        keep(int(handle[0]))
        return answer
    except BaseException:  # an interrupt, where nobody else knows the handle
        listener_close(int(handle[0]))
        raise


def listener_close(listener: int) -> None:
    """Refuse new connections. Idempotent."""
    _library.open().lib.tailnet_listener_close(listener)


def dial(node: int, address: str, connection: Fd) -> None:
    """Start to connect. `connection` becomes that; the answer is the first line on it."""
    _call("tailnet_dial", node, address, pending=connection)


def connection_was_reset(connection: int) -> bool:
    """Report whether a connection was aborted. Works in forked children, too."""
    if not connection or _library.native is None:
        return False
    code: int = _library.native.lib.tailnet_connection_end(connection)
    return code == Code.RESET


def set_option(number: int, option: int, value: int) -> bool:
    """Set an option of a connection or listener. Works in forked children, too.

    Returns False where nobody is left to do it.
    """
    if not number or _library.native is None:
        return False
    code: int = _library.native.lib.tailnet_set(number, option, value)
    return code == Code.OK


def generation() -> int:
    """Return what changes whenever an answer of whois() may be outdated.

    It only reads a number, so it is not checked again whether the library may be called.
    """
    native = _library.native or _library.open()
    number: int = native.lib.tailnet_generation()
    return number


def ask(node: int, operation: str, args: Mapping[str, Any], descriptor: int = -1) -> Fd:
    """Ask a question about a node; `descriptor` goes along, and stays the caller's to close."""
    return _pending(_call("tailnet_ask", node, operation, args, descriptor))


def operations() -> Document | Fd:
    """Return what `ask` can be asked: a description of each operation, by its name."""
    return _call("tailnet_operations")


def testcontrol_start(config: Mapping[str, Any]) -> tuple[int, Document | Fd]:
    """Start an offline control server in this process; for tailnet.testing."""
    handle = _library.open().ffi.new("tailnet_handle *")
    answer = _call("tailnet_testcontrol_start", config, handle)
    return int(handle[0]), answer


def testcontrol_do(control: int, args: Mapping[str, Any]) -> Document | Fd:
    """Have the offline control server do something; for tailnet.testing."""
    return _call("tailnet_testcontrol_do", control, args)


def _pending(answer: Document | Fd) -> Fd:
    if not isinstance(answer, Fd):
        raise TailnetInternalError("the library gave no descriptor")
    return answer


def _known(answer: Document | Fd) -> Document:
    if isinstance(answer, Fd):
        raise TailnetInternalError("the library gave a descriptor for what it knows already")
    return answer
