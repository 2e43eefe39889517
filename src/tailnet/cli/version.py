"""`tailnet version`: print what `tailnet.versions()` finds."""

from __future__ import annotations

from collections.abc import Mapping

from .. import versions


def run() -> int:
    """Print the versions; return 1 if they are not those of the wheel."""
    found = versions()
    loaded = found.model_dump(exclude={"wheel"})
    for name, value in {**loaded, "wheel": _verdict(loaded, found.wheel)}.items():
        print(name, value)
    return int(found.matches_wheel is False)


def _verdict(loaded: Mapping[str, str], wheel: Mapping[str, str] | None) -> str:
    if wheel is None:
        return "none, it was built here"
    differing = [f"{name} {value}" for name, value in wheel.items() if loaded[name] != value]
    return f"differs, it has {', '.join(differing)}" if differing else "matches"
