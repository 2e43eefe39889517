"""Tests of service.py, on a tailnet that needs no account and does not leave the machine."""

from __future__ import annotations

import asyncio

import pytest
from service import NotPoliteError, serve, serve_async

from pytest_tailnet import AsyncServiceFactory, ServiceFactory
from tailnet.testing import Testnet
from tailnet.testing.service import Service


def say(service: Service, line: bytes) -> str:
    """Return what the service answers to one line."""
    with service.dial() as conn, conn.makefile("r") as answers:
        conn.sendall(line)
        return answers.readline()


def test_a_caller_is_greeted_by_name(tailnet_service: ServiceFactory) -> None:
    """The service knows who calls: it says the caller's login."""
    with tailnet_service(serve) as service:
        login = service.caller.whois(str(service.caller.ip)).user.login
        assert say(service, b"hello\n") == f"Hello {login}!\n"


def test_a_caller_who_does_not_greet_stops_it(tailnet_service: ServiceFactory) -> None:
    """What the service raises is raised in the test, whatever the caller sees of it."""

    def scenario() -> None:
        with tailnet_service(serve) as service:
            say(service, b"goodbye\n")

    with pytest.raises(NotPoliteError, match="goodbye"):
        scenario()


def test_callers_are_greeted_at_the_same_time(async_tailnet_service: AsyncServiceFactory) -> None:
    """A caller who says nothing yet does not keep others waiting; no asyncio plugin is needed."""

    async def scenario() -> None:
        async with async_tailnet_service(serve_async) as service:
            with await service.dial() as silent:
                reader, writer = await asyncio.open_connection(sock=await service.dial())
                writer.write(b"hello\n")
                assert (await reader.readline()).startswith(b"Hello ")
                writer.close()
                await writer.wait_closed()
                assert silent.fileno() >= 0

    asyncio.run(scenario())


def test_it_goes_on_while_control_is_away(
    tailnet_service: ServiceFactory, testnet: Testnet
) -> None:
    """An outage of the control server does not touch those who know each other."""
    with tailnet_service(serve) as service:
        testnet.control.fault("status", status=500)
        assert say(service, b"hello\n").startswith("Hello ")
        testnet.control.fault("none")
