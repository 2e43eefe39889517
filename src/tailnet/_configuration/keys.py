"""The keys that a node logs in with: where one comes from, and what it must look like.

No error quotes a key. What is resolved here, and in which order, is in config.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from ..errors import TailnetConfigError
from .files import KEY_LIMIT, read_text
from .settings import looks_like_key

# What begins an OAuth client secret, wherever a key is taken.
CLIENT_SECRET = "tskey-client-"  # noqa: S105 - no secret yet

# What names a file in the place of a key, as with `tailscale up --auth-key`.
FILE = "file:"

_URL = re.compile(r"https?://[^/\s?#]+[^\s?#]*")

# What Go's strconv.ParseBool takes, which reads these parameters of a secret (feature/oauthkey).
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}


def check_key(key: str) -> None:
    """Raise ValueError for what no server can have made."""
    if not key.strip():
        raise ValueError("must not be empty")
    if key.startswith(FILE):
        if not key.removeprefix(FILE).strip() or "\0" in key:
            raise ValueError("names no file after file:")
    elif not key.isprintable() or any(c.isspace() for c in key.strip()):
        raise ValueError("holds white space or control characters")


def read_key(source: str, value: str) -> str:
    """Return the key that a variable or a setting has, or that the file has which it names.

    Args:
        source: What has it; an error begins with it.
        value: The key, or file:PATH; "" is none.

    Raises:
        TailnetConfigError: it is no key, or the file cannot be read.
    """
    value = value.strip()
    if not value:
        return ""
    try:
        check_key(value)
    except ValueError as e:
        problem = f"{source}: {e}"
    else:
        if value.startswith(FILE):
            return read_key_file(source, Path(value.removeprefix(FILE).strip()))
        return value
    raise TailnetConfigError(problem)


def read_key_file(source: str, path: Path) -> str:
    """Return the first line of a file that holds a key.

    Raises:
        TailnetConfigError: it cannot be read, or holds none; or the path is a key.
    """
    if looks_like_key(str(path)):  # it would be shown in the error about a missing file
        raise TailnetConfigError(
            f"{source}: this is a key, where the path of a file is wanted; TS_AUTHKEY and auth_key"
            " take the key itself"
        )
    lines = read_text(path, KEY_LIMIT, source, "name a file this user may read").strip()
    if not lines:
        raise TailnetConfigError(f"{source}: {path} is empty; it holds the key, and nothing else")
    key = lines.splitlines()[0].strip()
    if key.startswith(FILE):
        raise TailnetConfigError(f"{source}: {path} names another file; it holds the key itself")
    return read_key(f"{source} {path}", key)


def with_parameters(secret: str, *, ephemeral: bool, preauthorized: bool | None) -> str:
    """Return an OAuth client secret with the parameters of the keys that it makes.

    Args:
        secret: "tskey-client-...", and perhaps parameters of its own after a "?".
        ephemeral: Whether the nodes are.
        preauthorized: Whether they need no admin's approval; None leaves it to the secret.

    Raises:
        ValueError: a parameter is unknown, or says something else than the settings.
    """
    secret, _, query = secret.partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := given.keys() - {"ephemeral", "preauthorized", "baseURL"}:
        raise ValueError(
            f"has {len(unknown)} unknown parameter(s) after its '?'; known are ephemeral,"
            " preauthorized and baseURL"
        )
    settings = {"ephemeral": ephemeral, "preauthorized": preauthorized}
    for name, setting in settings.items():
        if not (value := given.get(name)):
            continue
        if value not in _BOOLEANS:
            raise ValueError(f"its parameter {name} is neither true nor false")
        if setting is not None and setting != _BOOLEANS[value]:
            raise ValueError(
                f"its parameter {name}={str(not setting).lower()} contradicts the setting"
                f" {name}={setting}; change one of them"
            )
        settings[name] = _BOOLEANS[value]
    named = {name: str(bool(value)).lower() for name, value in settings.items()}
    if base := given.get("baseURL"):
        if not _URL.fullmatch(base):
            raise ValueError("its parameter baseURL must be https://host or http://host")
        named["baseURL"] = base
    return f"{secret}?{urlencode(named)}"
