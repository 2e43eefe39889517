"""The fields that a configuration file holds."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from ..errors import TailnetConfigError
from .fields import of_type
from .files import CONFIG_LIMIT, read_text
from .keys import FILE
from .paths import check_field
from .settings import looks_like_key

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def file_of(path: str | os.PathLike[str]) -> Path:
    """Return the path of a configuration file, absolute.

    Raises:
        TailnetConfigError: it is no path.
    """
    given: Any = path
    if not isinstance(given, (str, os.PathLike)):
        raise TailnetConfigError(
            f"from_file: want the path of a file, and not {type(given).__name__}"
        )
    if not str(path):
        raise TailnetConfigError("from_file: the path is empty")
    if looks_like_key(str(path)) and not os.path.exists(path):  # noqa: PTH110 - never raises
        raise TailnetConfigError("from_file: want the path of a file, not a key")
    return Path(path).absolute()  # what it names is there, wherever the program then goes


def fields_of(path: Path) -> dict[str, Any]:
    """Return the fields of a file's section.

    Raises:
        TailnetConfigError: it cannot be read, or has no such section.
    """
    text = read_text(path, CONFIG_LIMIT)
    problem = ""
    document: Any = None
    try:
        document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except RecursionError:
        problem = f"{path} is nested too deep"
    except ValueError as e:  # its message quotes a position, not the text
        kind = "JSON" if path.suffix == ".json" else "TOML"
        problem = f"{path} is not {kind}: {e}" if kind == "TOML" else f"{path} is not JSON"
    if problem:
        raise TailnetConfigError(problem)
    found = [document.get(n) for n in ("tailnet", "tailscale")] if _is_table(document) else []
    tables = [table for table in found if _is_table(table)]
    if len(tables) != 1:
        raise TailnetConfigError(f"{path} needs one section: [tailnet] or [tailscale]")
    return dict(tables[0])


def placed(
    given: Mapping[str, Any], fields: Mapping[str, FieldInfo], directory: Path
) -> dict[str, Any]:
    """Return what a file gives, with each relative path made relative to its directory.

    Raises:
        TailnetConfigError: one of them is no path.
    """
    found = dict(given)
    texts = {name: value for name, value in given.items() if isinstance(value, str)}
    for name in texts.keys() & of_type(fields, Path):
        if texts[name].strip():
            found[name] = directory / check_field(name, texts[name])
    for name in texts.keys() & of_type(fields, SecretStr):
        key = texts[name].strip()
        if key.startswith(FILE) and (path := key.removeprefix(FILE).strip()):
            found[name] = FILE + str(directory / path)
    return found


def _is_table(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)
