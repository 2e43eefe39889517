"""What the loaded library is made of, beside what the wheel says of it.

A wheel from the package index lists what is in its library (tools/bom.py). Files of two
installations over each other differ from the list; what was built on this machine has none.
"""

from __future__ import annotations

import json

from ..models import Versions
from . import lib


def versions() -> Versions:
    """Return the versions of what runs here, and whether they are the wheel's. Loads the library.

    Raises:
        TailnetForked: the library was loaded before this process was forked.
        ImportError: the library is missing, or of another version than the package.
    """
    return Versions(**lib.versions(), wheel=_listed())


def _listed() -> dict[str, str] | None:
    """Return the versions that the wheel lists, by the names of Versions; None without a list."""
    import importlib.metadata  # here, because only this asks for it

    try:
        text = importlib.metadata.distribution("tailnet").read_text("sboms/tailnet.cdx.json")
    except importlib.metadata.PackageNotFoundError:  # packed into one file without its metadata
        text = None
    if not text:
        return None
    bill = json.loads(text)
    parts = {part["name"]: part["version"] for part in bill["components"]}
    return {
        "tailnet": bill["metadata"]["component"]["version"],
        "tailscale": parts["tailscale.com"],
        "go": "go" + parts["std"],
    }
