"""The errors: their tree, their codes, and what of them survives a copy."""

from __future__ import annotations

import copy
import errno
import pickle
import re
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tailnet
from tailnet import errors
from tailnet.errors import CLASSES, Code, TailnetError, error_from_document

ROOT = Path(__file__).parent.parent
SYSTEM = {OSError, ConnectionError, ConnectionRefusedError, TimeoutError, socket.gaierror}


def below(cls: type[TailnetError]) -> list[type[TailnetError]]:
    """Return a class and all below it, without the private ones."""
    found = [] if cls.__name__.startswith("_") else [cls]
    for child in cls.__subclasses__():
        found += below(child)
    return found


ALL = below(TailnetError)
every_class = pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)


def parent(cls: type[TailnetError]) -> str:
    """Return the name of the public class above one; "" above the first."""
    return next((c.__name__ for c in cls.__mro__[1:] if c in ALL), "")


def tree(text: str) -> dict[str, tuple[str, str]]:
    """Read a drawn tree: the name of each class -> the name above it, what is said beside it."""
    found: dict[str, tuple[str, str]] = {}
    above: list[str] = []
    for indent, names, beside in re.findall(
        r"^(?: {4})?((?:[│├└][ ─]{3})*)(Tailnet\w+(?:, Tailnet\w+)*) *(.*)$", text, re.MULTILINE
    ):
        depth = len(indent) // 4
        above = [*above[:depth], names]
        found |= dict.fromkeys(names.split(", "), (above[depth - 1] if depth else "", beside))
    return found


# --- the tree ---


@pytest.mark.parametrize(
    ("builtin", "names"),
    [
        (ValueError, {"TailnetConfigError"}),
        (LookupError, {"TailnetPeerNotFound"}),
        (TimeoutError, {"TailnetTimeout"}),
        (ConnectionRefusedError, {"TailnetRefused"}),
        (socket.gaierror, {"TailnetNameError"}),
        (ConnectionError, {"TailnetConnectError", "TailnetRefused"}),
        (
            OSError,
            {
                *("TailnetConnectError", "TailnetTimeout", "TailnetListenError"),
                *("TailnetResourceError", "TailnetUnsupported"),
                *("TailnetDialError", "TailnetRefused", "TailnetUnreachable", "TailnetNameError"),
            },
        ),
    ],
)
def test_except_of_a_builtin_catches(builtin: type[Exception], names: set[str]) -> None:
    """What Python code already catches, catches the errors of that kind and no others."""
    caught = set()
    for cls in ALL:
        try:
            raise cls("m")
        except builtin:
            caught.add(cls.__name__)
        except TailnetError:
            pass
    assert caught == names


def test_only_a_connect_error_is_worth_a_retry() -> None:
    """Trying the same again can help with the control server alone."""
    assert [cls for cls in ALL if cls.retryable] == [errors.TailnetConnectError]


def test_each_code_has_a_class_and_each_class_a_code() -> None:
    """Every code that is an error has a class, and every class is of the code it carries."""
    assert set(CLASSES) == set(Code) - {Code.OK, Code.PENDING}
    assert {cls for cls in ALL if cls.code not in CLASSES} == set()
    others = {cls for cls in ALL if CLASSES[Code(cls.code)] is not cls}
    assert others == {TailnetError, errors.TailnetForked}  # a base, and what Go never sees


def test_codes_are_those_of_the_header() -> None:
    """Code has the names and numbers of go/tailnet.h, all of them."""
    header = (ROOT / "go/tailnet.h").read_text()
    numbers = dict(re.findall(r"^ +TAILNET_(?:E_)?(OK|\w+(?= = 7)) = (\d+)", header, re.MULTILINE))
    assert {code.name: str(code.value) for code in Code} == numbers


def test_tree_in_the_module_is_complete() -> None:
    """The tree in errors.py draws every class below its parent, with its builtin and its retry."""
    drawn = tree(errors.__doc__ or "")
    assert {name: above for name, (above, _) in drawn.items()} == {
        cls.__name__: parent(cls) for cls in ALL
    }
    builtins = {name: re.findall(r"\((\w+(?:\.\w+)?)\)", said) for name, (_, said) in drawn.items()}
    for cls in ALL:
        for base in cls.__bases__:
            if not issubclass(base, TailnetError) and cls is not TailnetError:
                module = "" if base.__module__ == "builtins" else f"{base.__module__}."
                assert f"{module}{base.__name__}" in builtins[cls.__name__]
    assert [name for name, (_, said) in drawn.items() if "RETRYABLE" in said] == [
        "TailnetConnectError"
    ]


def test_tree_in_the_readme_is_complete() -> None:
    """The README draws every public class below its parent."""
    drawn = tree((ROOT / "README.md").read_text())
    assert {n: above for n, (above, _) in drawn.items()} == {c.__name__: parent(c) for c in ALL}


def test_every_class_is_public() -> None:
    """Each class can be imported from tailnet, and a traceback names it so."""
    assert {cls.__name__ for cls in ALL} <= set(tailnet.__all__)
    assert all(getattr(tailnet, cls.__name__) is cls for cls in ALL)
    for cls in ALL:
        assert traceback.format_exception_only(cls("m")) == [
            f"tailnet.{cls.__name__}: {cls('m')}\n"
        ]


# --- one error ---


@every_class
def test_error_says_its_message(cls: type[TailnetError]) -> None:
    """An error prints as its message, whichever builtin it also is, and has its class's code."""
    error = cls("what happened")
    advice = (
        "; this is a bug in tailnet: please report it" if cls is errors.TailnetInternalError else ""
    )
    assert str(error) == f"{error.message}{advice}" == f"what happened{advice}"
    assert error.args == ("what happened",)
    assert cls("m", code=Code.RESET).code == Code.RESET != error.code == cls.code


@every_class
@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copy_keeps_everything(cls: type[TailnetError], copied: Callable[[Any], Any]) -> None:
    """An error that crosses a process boundary, or is copied, is the same error."""
    error = cls("what happened", code=Code.RESET)
    vars(error).update(url="https://login", retry_after=2.5)
    if isinstance(error, OSError):
        error.errno = errno.ENETDOWN  # of no class
    again = copied(error)
    assert type(again) is cls
    assert vars(again) == vars(error)
    assert (str(again), again.args, again.code) == (str(error), error.args, Code.RESET)
    assert getattr(again, "errno", None) == getattr(error, "errno", None)
    assert getattr(again, "strerror", None) == getattr(error, "strerror", None)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("TailnetDialError", errno.EIO),
        ("TailnetRefused", errno.ECONNREFUSED),
        ("TailnetUnreachable", errno.EHOSTUNREACH),
        ("TailnetNameError", socket.EAI_NONAME),
        ("TailnetResourceError", errno.EMFILE),
        ("TailnetListenError", errno.EADDRINUSE),
        ("TailnetUnsupported", errno.EOPNOTSUPP),
    ],
)
def test_system_error_has_an_errno(name: str, number: int) -> None:
    """What is an OSError has the errno of its kind, or the one it is given."""
    cls = getattr(errors, name)
    error = cls("what happened")
    assert (error.errno, error.strerror) == (number, "what happened")
    assert cls("m", number=errno.ENETDOWN).errno == errno.ENETDOWN


# --- from the library ---


@pytest.mark.parametrize("code", CLASSES, ids=lambda code: code.name)
def test_document_becomes_its_class(code: Code) -> None:
    """An error document of each code is raised as that code's class, with its message."""
    error = error_from_document({"code": int(code), "message": "what happened"})
    assert type(error) is CLASSES[code]
    assert (error.code, error.message) == (code, "what happened")


@pytest.mark.parametrize(
    ("code", "sent", "number"),
    [
        (Code.DIAL, errno.ENETDOWN, errno.ENETDOWN),
        (Code.RESET, errno.ECONNRESET, errno.ECONNRESET),
        (Code.REFUSED, 0, errno.ECONNREFUSED),
        (Code.UNREACHABLE, errno.ENETUNREACH, errno.ENETUNREACH),
        (Code.NAME, errno.ENOENT, socket.EAI_NONAME),
        (Code.ADDRESS_IN_USE, 0, errno.EADDRINUSE),
        (Code.ADDRESS_NOT_AVAILABLE, 0, errno.EADDRNOTAVAIL),
    ],
)
def test_document_sets_errno(code: Code, sent: int, number: int) -> None:
    """The errno is the library's, except where the code alone decides."""
    error = error_from_document({"code": code, "message": "m", "errno": sent})
    assert isinstance(error, OSError)
    assert error.errno == number


def test_document_carries_what_to_do() -> None:
    """The login URL and the server's Retry-After arrive, and are empty where there are none."""
    login = {"code": Code.LOGIN_REQUIRED, "message": "m"}
    connect = {"code": Code.CONNECT, "message": "m"}
    found: list[Any] = [
        error_from_document(document)
        for document in (login, login | {"url": "u"}, connect, connect | {"retry_after": 2.5})
    ]
    assert [error.url for error in found[:2]] == ["", "u"]
    assert [error.retry_after for error in found[2:]] == [None, 2.5]


@pytest.mark.parametrize("code", [Code.OK, Code.PENDING, 9999, "odd", None])
def test_unknown_code_is_an_internal_error(code: Any) -> None:
    """A code this version does not know is a bug's error, which keeps the code and the message."""
    error = error_from_document({"code": code, "message": "what happened"})
    assert type(error) is errors.TailnetInternalError
    assert (error.code, error.message) == (Code.INTERNAL if code is None else code, "what happened")


def test_document_without_anything_still_says_something() -> None:
    """An empty error document is an internal error with a message."""
    error = error_from_document({})
    assert type(error) is errors.TailnetInternalError
    assert error.code == Code.INTERNAL
    assert "no reason" in str(error)
