"""How a Python end listens and dials with tailnet; as networks.py has it.

Read next: threads.py and tasks.py, what is done on them.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from tailnet import AsyncTailnet, Tailnet, TailnetConfig
from tailnet.models import Status

from .networks import AsyncLoopback, Loopback, Streams, split
from .services import PORTS, READ_SIZE


def direct(status: Status, address: str) -> str:
    """Return which way packets to that peer take: "ip:port", or "" through the relay."""
    ip = ipaddress.ip_address(split(address)[0])
    return next((peer.address for peer in status.peers if ip in peer.ips), "")


def config(backend: str, tailscaled: str, **fields: Any) -> TailnetConfig:
    """Return the configuration of a node in this process, or of a tailscaled of its own."""
    if backend == "managed":
        fields.update(backend="tailscaled", tailscaled_managed=True, tailscaled_path=tailscaled)
    return TailnetConfig(ephemeral=True, **fields)


class Ours(Loopback):
    """A node of ours."""

    def __init__(self, configuration: TailnetConfig) -> None:
        self._tailnet = Tailnet(configuration)

    def join(self) -> str:
        """Join; return the address of the node."""
        self._tn = self._tailnet.up()
        return str(self._tn.ip)

    def listen(self, service: str, backlog: int) -> socket.socket:
        """Listen for a service."""
        return self._tn.listen(f":{PORTS[service]}", backlog=backlog)

    def dial(self, address: str) -> socket.socket:
        """Connect."""
        return self._tn.dial(address)

    def whois(self, address: tuple[str, int]) -> str:
        """Say who is behind an address."""
        return self._tn.whois(address).user.login

    def path(self, address: str) -> str:
        """Say which way packets to the other end take."""
        return direct(self._tn.status(), address)

    def close(self) -> None:
        """Leave."""
        self._tn.close()


class AsyncOurs(AsyncLoopback):
    """A node of ours, for asyncio."""

    def __init__(self, configuration: TailnetConfig) -> None:
        self._tailnet = AsyncTailnet(configuration)

    async def join(self) -> str:
        """Join; return the address of the node."""
        self._tn = await self._tailnet.up()
        return str(self._tn.ip)

    async def listen(self, service: str, backlog: int) -> socket.socket:
        """Listen for a service."""
        return await self._tn.listen(f":{PORTS[service]}", backlog=backlog)

    async def dial(self, address: str) -> Streams:
        """Connect."""
        sock = await self._tn.dial(address)
        import asyncio

        return await asyncio.open_connection(sock=sock, limit=READ_SIZE)

    async def whois(self, address: tuple[str, int]) -> str:
        """Say who is behind an address."""
        return (await self._tn.whois(address)).user.login

    async def path(self, address: str) -> str:
        """Say which way packets to the other end take."""
        return direct(await self._tn.status(), address)

    async def close(self) -> None:
        """Leave."""
        await self._tn.close()
