"""`tailnet version`: what the library is made of, and whether the wheel said so.

A wheel from the package index lists what is in its library (tools/bom.py). Files of two
installations over each other differ from the list; what was built on this machine has none.
"""

from __future__ import annotations

import importlib.metadata
import json

from .. import versions


def run() -> int:
    """Print the versions; return 1 if they are not those of the wheel."""
    found = versions()
    wheel = listed()
    lines = {**found, "wheel": "none, it was built here"}
    if wheel:
        differing = [f"{name} {value}" for name, value in wheel.items() if found[name] != value]
        lines["wheel"] = f"differs, it has {', '.join(differing)}" if differing else "matches"
    print("\n".join(f"{name} {value}" for name, value in lines.items()))
    return int(lines["wheel"].startswith("differs"))


def listed() -> dict[str, str]:
    """Return the versions that the wheel lists, by the names of `versions()`; {} without a list."""
    try:
        text = importlib.metadata.distribution("tailnet").read_text("sboms/tailnet.cdx.json")
    except importlib.metadata.PackageNotFoundError:  # packed into one file without its metadata
        text = None
    if not text:
        return {}
    bill = json.loads(text)
    parts = {part["name"]: part["version"] for part in bill["components"]}
    return {
        "tailnet": bill["metadata"]["component"]["version"],
        "tailscale": parts["tailscale.com"],
        "go": "go" + parts["std"],
    }
