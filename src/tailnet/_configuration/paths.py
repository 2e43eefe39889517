"""Paths in the configuration: what they must look like, and where they begin."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from ..errors import TailnetConfigError
from .settings import looks_like_key


def split(value: Any) -> Any:
    """Return the parts of a list that a variable has, with commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def check_path(value: Any) -> Any:
    """Refuse what pathlib would take for another file, and what is no path at all."""
    if isinstance(value, (str, Path)):
        text = str(value).strip() if isinstance(value, str) else str(value)
        if not text:
            raise ValueError("must not be empty; leave it out instead")
        if "\0" in text:
            raise ValueError("holds a NUL character")
        if not is_text(text):
            raise ValueError(NOT_TEXT)
        refuse_key(text)
        try:
            return Path(text).expanduser()
        except RuntimeError:  # "~name" of nobody, or no home directory at all
            raise ValueError('has a "~" that stands for no home directory') from None
    return value


NOT_TEXT = "is not text in UTF-8; give it a name that is"


def is_text(path: str) -> bool:
    """Report whether a path can be passed on: two that cannot would become the same one."""
    try:
        path.encode()
    except UnicodeEncodeError:  # os.fsdecode makes surrogates of bytes that are not UTF-8
        return False
    return True


def refuse_key(text: str) -> None:
    """Raise ValueError for what looks like a key."""
    # It would be shown in the repr, and in errors about a file that is not there.
    if looks_like_key(text):
        raise ValueError("looks like a key, which belongs in auth_key or client_secret")


Names = Annotated[tuple[str, ...], BeforeValidator(split)]
File = Annotated[Path, BeforeValidator(check_path)]


def check_field(name: str, value: str) -> Path:
    """Return the path that a field of a configuration file names."""
    try:
        path: Path = check_path(value)
    except ValueError as e:
        problem = f"{name}: {e}"
    else:
        return path
    raise TailnetConfigError(problem)


def home(environ: Mapping[str, str]) -> str:
    """Return this user's home directory."""
    place = environ.get("HOME", "")
    if os.path.isabs(place):  # noqa: PTH117 - strings throughout
        return place
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # in a container, a user without an entry in passwd
        problem = (
            "state_dir: there is no home directory for it; set it, or XDG_STATE_HOME, or HOME, or"
            " ephemeral=True for a node that keeps no identity"
        )
    raise TailnetConfigError(problem)
