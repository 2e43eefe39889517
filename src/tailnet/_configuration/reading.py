"""The fields that a configuration file holds."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, TypeGuard

from ..errors import TailnetConfigError
from .files import CONFIG_LIMIT, read_text
from .keys import FILE
from .paths import check_field
from .settings import looks_like_key

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PATHS = ("auth_key_file", "state_dir", "tailscaled_socket", "tailscaled_path")


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
    """Return the fields of a file's section, with paths relative to its directory.

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


def placed(fields: dict[str, Any], beside: Path) -> dict[str, Any]:
    """Return the fields with relative paths made relative to the directory of a file.

    Raises:
        TailnetConfigError: one of them is no path.
    """
    for name in _PATHS:
        if isinstance(fields.get(name), str) and fields[name].strip():
            fields[name] = beside.parent / check_field(name, fields[name])
    for name in ("auth_key", "client_secret"):
        value = fields.get(name)
        if isinstance(value, str) and (path := value.strip().removeprefix(FILE)) != value.strip():
            fields[name] = FILE + str(beside.parent / path.strip()) if path.strip() else value
    return fields


def _is_table(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)
