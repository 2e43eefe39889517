"""What the library is made of; that needs no node."""

from __future__ import annotations

from collections.abc import Mapping

from ._base import Model


class Versions(Model):
    """What the loaded library is made of, and whether the wheel it came in says so.

    Attributes:
        tailnet: Ours.
        tailscale: Of the Go module tailscale.com, such as "v1.102.5".
        go: Of the Go that compiled it, such as "go1.26.6".
        wheel: The same three as the wheel lists them; None without a list, because the library
            was built on this machine.
    """

    tailnet: str
    tailscale: str
    go: str
    wheel: Mapping[str, str] | None = None

    @property
    def matches_wheel(self) -> bool | None:
        """Whether the loaded library is the wheel's; None where there is no wheel.

        False means that files of two installations are mixed: install the package again.
        """
        if self.wheel is None:
            return None
        return all(getattr(self, name) == value for name, value in self.wheel.items())
