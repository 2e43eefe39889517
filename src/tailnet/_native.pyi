"""What cffi makes of go/tailnet.h, for type checkers; tests/test_contract.py compares the two.

The names and the rules of every function are in the header. Only _engine/lib.py imports this.
"""

from typing import Any, Literal, overload

class CharPointer:
    """A `char *`."""

class Buffer(CharPointer):
    """An owned `char[n]`, freed with the object."""

    def __len__(self) -> int: ...

class Answer:
    """An owned `tailnet_answer *`. It does not keep the Buffer behind `buf` alive."""

    buf: CharPointer
    cap: int
    len: int
    fd: int

class Handle:
    """An owned `tailnet_handle *`: where a function writes a handle."""

    def __getitem__(self, index: Literal[0]) -> int: ...

class FFI:
    NULL: Any
    @overload
    def new(self, cdecl: Literal["tailnet_answer *"], init: dict[str, Any] = ...) -> Answer: ...
    @overload
    def new(self, cdecl: Literal["tailnet_handle *"], init: int = ...) -> Handle: ...
    @overload
    def new(self, cdecl: Literal["char[]"], init: int | bytes) -> Buffer: ...
    def unpack(self, cdata: CharPointer, length: int) -> bytes: ...

class Lib:
    TAILNET_OK: int
    TAILNET_PENDING: int
    TAILNET_E_ARGUMENT: int
    TAILNET_E_INTERNAL: int
    TAILNET_E_HANDLE: int
    TAILNET_E_CONFIG: int
    TAILNET_E_AUTH: int
    TAILNET_E_LOGIN_REQUIRED: int
    TAILNET_E_APPROVAL_REQUIRED: int
    TAILNET_E_CONNECT: int
    TAILNET_E_NOT_RUNNING: int
    TAILNET_E_TIMEOUT: int
    TAILNET_E_DIAL: int
    TAILNET_E_REFUSED: int
    TAILNET_E_UNREACHABLE: int
    TAILNET_E_NAME: int
    TAILNET_E_ADDRESS_IN_USE: int
    TAILNET_E_ADDRESS_NOT_AVAILABLE: int
    TAILNET_E_STATE_LOCKED: int
    TAILNET_E_UNSUPPORTED: int
    TAILNET_E_CLOSED: int
    TAILNET_E_NOT_FOUND: int
    TAILNET_E_RESET: int
    TAILNET_E_RESOURCE: int
    TAILNET_KEEPALIVE: int
    TAILNET_KEEPIDLE: int
    TAILNET_KEEPINTVL: int
    TAILNET_KEEPCNT: int
    TAILNET_USER_TIMEOUT: int

    # A `tailnet_str` is given as bytes; cffi adds the NUL.
    def tailnet_versions(self, answer: Answer, /) -> int: ...
    def tailnet_intact(self) -> int: ...
    def tailnet_stats(self, answer: Answer, /) -> int: ...
    def tailnet_logs(self, answer: Answer, /) -> int: ...
    def tailnet_node_new(self, config: bytes, node: Handle, answer: Answer, /) -> int: ...
    def tailnet_node_up(self, node: int, args: bytes, answer: Answer, /) -> int: ...
    def tailnet_node_close(self, node: int, timeout_ms: int, answer: Answer, /) -> int: ...
    def tailnet_listen(
        self, node: int, args: bytes, listener: Handle, answer: Answer, /
    ) -> int: ...
    def tailnet_listener_close(self, listener: int, /) -> int: ...
    def tailnet_dial(self, node: int, address: bytes, answer: Answer, /) -> int: ...
    def tailnet_connection_end(self, connection: int, /) -> int: ...
    def tailnet_set(self, connection_or_listener: int, option: int, value: int, /) -> int: ...
    def tailnet_generation(self) -> int: ...
    def tailnet_ask(
        self, node: int, operation: bytes, args: bytes, descriptor: int, answer: Answer, /
    ) -> int: ...
    def tailnet_operations(self, answer: Answer, /) -> int: ...
    def tailnet_testcontrol_start(
        self, config: bytes, control: Handle, answer: Answer, /
    ) -> int: ...
    def tailnet_testcontrol_do(self, control: int, args: bytes, answer: Answer, /) -> int: ...

ffi: FFI
lib: Lib
