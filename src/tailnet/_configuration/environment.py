"""What of the environment Tailscale's code may see, and the control server's URL."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

# What tsnet would fall back to behind the configuration's back, and no field is read from.
_FALLBACKS = {
    "TS_CLIENT_SECRET",
    "TS_CLIENT_ID",
    "TS_ID_TOKEN",
    "TS_AUDIENCE",
    "TSNET_FORCE_LOGIN",
}

# What else Tailscale's code and Go's standard library read from the environment.
_SHARED = {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"}


def shared(environ: Mapping[str, str], ours: Collection[str]) -> dict[str, str]:
    """Return the variables that Tailscale's code keeps once per process.

    Args:
        environ: The environment.
        ours: The variables that fields are read from.
    """
    return {
        name: value
        for name, value in environ.items()
        if (name.startswith("TS_") and name not in ours and name not in _FALLBACKS)
        or name.upper() in _SHARED
    }


def control_url(value: str) -> str:
    """Return the URL of a control server; raise ValueError for what is none."""
    form = "must be http://host[:port] or https://host[:port]"
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:  # its message quotes the value
        raise ValueError(form) from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or not value.isprintable():
        raise ValueError(form)
    if " " in value:
        raise ValueError("holds a space")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must have neither a user, nor a query, nor a fragment")
    return value.rstrip("/")
