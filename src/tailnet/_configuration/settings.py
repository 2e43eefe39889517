"""Immutable settings whose every way in ends in valid values or in a TailnetConfigError.

pydantic's own errors print the input, and with it keys: they go no further than this file, not
even as the cause or the context of ours. What users fill in is in config.py and retry.py.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import TailnetConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

P = ParamSpec("P")
T = TypeVar("T")

# One that is the whole value, or somewhere in it: tskey-auth-..., hskey-auth-... and others.
_KEY = re.compile(r"^(ts|hs)key-|(ts|hs)key-[a-z]+-\w{6}", re.IGNORECASE)


def looks_like_key(text: str) -> bool:
    """Report whether a key of Tailscale or headscale is in a text that would be shown."""
    return _KEY.search(text) is not None


def way_in(function: Callable[P, T]) -> Callable[P, T]:
    """Make a TailnetConfigError of whatever a function raises, and leave its frames behind.

    Crash reporters send away the variables of a traceback's frames, which hold keys here.
    """

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except BaseException as e:  # noqa: BLE001 - Ctrl-C too is reported with its frames
            error = _bare(e)
        del args, kwargs  # of this frame, which stays
        raise error

    return checked


def _bare(error: BaseException) -> BaseException:
    """Return what to raise for an error: one without frames, and without what led to it."""
    bare: BaseException = error
    if isinstance(error, OSError) and not isinstance(error, TailnetConfigError):
        help_ = "let this user use it"
        if isinstance(error, FileNotFoundError):
            help_ = "is the working directory gone, that a relative path starts from?"
        bare = TailnetConfigError(f"a path cannot be used: {error}; {help_}")
    elif isinstance(error, Exception) and not isinstance(error, TailnetConfigError):
        # Its own text may quote what was given, and that may be a key.
        kind = type(error).__name__
        bare = TailnetConfigError(f"what was given cannot be used as a configuration ({kind})")
    bare.__cause__ = bare.__context__ = None
    return bare.with_traceback(None)


class Settings(BaseModel):
    """A frozen model that raises TailnetConfigError, with field names and reasons only."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, str_strip_whitespace=True
    )

    @way_in
    def __init__(self, /, *nothing: Any, **fields: Any) -> None:
        if nothing:
            raise TailnetConfigError(f"{type(self).__name__} takes fields by name only")
        _checked(type(self), lambda: super(Settings, self).__init__(**fields))

    @classmethod
    @way_in
    def model_validate(cls, obj: Any, **kwargs: Any) -> Self:
        """Validate a mapping."""
        return _checked(cls, lambda: super(Settings, cls).model_validate(obj, **kwargs))

    @classmethod
    @way_in
    def model_validate_json(cls, json_data: str | bytes | bytearray, **kwargs: Any) -> Self:
        """Validate a JSON object."""
        return _checked(cls, lambda: super(Settings, cls).model_validate_json(json_data, **kwargs))

    @classmethod
    @way_in
    def model_validate_strings(cls, obj: Any, **kwargs: Any) -> Self:
        """Validate a mapping of strings."""
        return _checked(cls, lambda: super(Settings, cls).model_validate_strings(obj, **kwargs))

    @way_in
    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some fields changed, validated as any other."""
        del deep  # everything in it is immutable
        fields = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**fields, **(update or {})})

    @classmethod
    @way_in
    def model_construct(cls, _fields_set: set[str] | None = None, **values: Any) -> Self:
        """Validate like every other way in."""
        del _fields_set
        return cls(**values)

    if not TYPE_CHECKING:  # for checkers, `frozen` says it

        @way_in  # the value may be a key, and would stay in this frame
        def __setattr__(self, name: str, value: Any) -> NoReturn:
            raise TailnetConfigError(f"{name}: the settings are frozen; use model_copy")

        def __delattr__(self, name: str) -> NoReturn:
            raise TailnetConfigError(f"{name}: the settings are frozen; use model_copy")

        # pydantic's deprecated names: its own `copy` validates nothing, and the frames of all
        # three keep what they were given.

        @way_in
        def copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
            """Do as model_copy()."""
            return self.model_copy(update=update, deep=deep)

        @classmethod
        @way_in
        def parse_obj(cls, obj: Any) -> Self:
            """Do as model_validate()."""
            return cls.model_validate(obj)

        @classmethod
        @way_in
        def construct(cls, _fields_set: set[str] | None = None, **values: Any) -> Self:
            """Do as model_construct()."""
            return cls.model_construct(_fields_set, **values)


def _checked(cls: type[Settings], validate: Callable[[], T]) -> T:
    try:
        return validate()
    except ValidationError as e:
        problem = _explain(e, cls)
    except (TypeError, RecursionError):  # keys that are no names; a document without an end
        problem = f"what was given has not the form of a {cls.__name__}"
    raise TailnetConfigError(problem)  # outside the except: no context that holds the input


def _explain(error: ValidationError, cls: type[Settings]) -> str:
    """Say which fields are wrong and why, without any input."""
    reasons: list[str] = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        where = ".".join(map(str, detail["loc"]))
        if looks_like_key(where):  # in a field's place
            where = "[secret]"
        reason = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            reason = "unknown setting"
            if near := difflib.get_close_matches(where, cls.model_fields, n=1):
                reason += f"; did you mean {near[0]}?"
        reasons.append(f"{where}: {reason}" if where else reason)
    return "; ".join(reasons)
