"""`Testnet`: an offline control server, and nodes that join it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import AsyncTailnet, Tailnet, TailnetConfig
from ._control import ControlServer

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Testnet"]


class Testnet:
    """An offline tailnet for tests: `with Testnet() as net`.

    Args:
        **options: As of ControlServer.
    """

    __test__ = False  # pytest: not a class of tests

    def __init__(self, **options: Any) -> None:
        self.control = ControlServer(**options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.control!r}>"

    @property
    def url(self) -> str:
        """The control server's URL."""
        return self.control.url

    @property
    def auth_key(self) -> str:
        """The one reusable key; "" where none is asked for."""
        return self.control.auth_key

    @property
    def domain(self) -> str:
        """What MagicDNS names end with."""
        return self.control.domain

    def config(self, hostname: str, **fields: Any) -> TailnetConfig:
        """Return a configuration that joins this tailnet, as an ephemeral node by default."""
        defaults: dict[str, Any] = {"control_url": self.url, "ephemeral": "state_dir" not in fields}
        if self.auth_key:
            defaults["auth_key"] = self.auth_key
        return TailnetConfig(hostname=hostname, **{**defaults, **fields})

    def tailnet(self, hostname: str, **fields: Any) -> Tailnet:
        """Return a node that is not joined yet; `fields` are TailnetConfig's."""
        return Tailnet(self.config(hostname, **fields))

    def async_tailnet(self, hostname: str, **fields: Any) -> AsyncTailnet:
        """Return a node that is not joined yet, for asyncio."""
        return AsyncTailnet(self.config(hostname, **fields))

    def environ(self) -> dict[str, str]:
        """Return the variables with which another program joins this tailnet by default."""
        variables = {"TS_CONTROL_URL": self.url}
        if self.auth_key:
            variables["TS_AUTHKEY"] = self.auth_key
        return variables

    def start(self) -> Self:
        """Start it; entering does the same."""
        self.control.start()
        return self

    def stop(self) -> None:
        """End it. Nodes that are up see an outage of their control server. Idempotent."""
        self.control.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
