"""The pytest plugin of tailnet: fixtures for an offline tailnet, its nodes, a service under test.

pytest loads this by itself where tailnet is installed. Rules of this file:

- It costs nothing where it is not used: at import it needs pytest alone, and tailnet when a fixture
  is set up. So it lies beside the package: Python imports a package before a module in it.
- Fixtures are plain ones that wait, also those for asyncio: a node belongs to no event loop. So
  they work with pytest-asyncio, with anyio's plugin and without either.
- A test that uses one of them fails when it leaves something of the tailnet open;
  tailnet/testing/_leaks.py.
- It has no hooks that wrap a test: those would bind it to a version of pluggy.

docs/testing.md tells users; what runs a service is in tailnet.testing.service.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from tailnet import AsyncTailnetHandle, TailnetHandle
    from tailnet.testing._leaks import LeakCheck, Mode
    from tailnet.testing._testnet import Testnet
    from tailnet.testing.service import (
        AsyncServe,
        AsyncService,
        AsyncTailnetPair,
        Nodes,
        Serve,
        Service,
        TailnetPair,
    )

__all__ = ["AsyncServiceFactory", "ServiceFactory"]

LEAK_CHECK = "tailnet_leak_check"
_MODES = ("tailnet", "fds", "off")


# --- fixtures ---------------------------------------------------------------------------------


@pytest.fixture
def testnet(request: pytest.FixtureRequest) -> Iterator[Testnet]:
    """An offline tailnet for this test; see tailnet.testing.Testnet.

    `@pytest.mark.testnet(require_approval=True)` gives it options of ControlServer. To share one
    among the tests of a module, define a fixture of this name there.
    """
    from tailnet.testing._testnet import Testnet

    marker = request.node.get_closest_marker("testnet")
    with Testnet(**(marker.kwargs if marker else {})) as net:
        yield net


@pytest.fixture
def _tailnet_nodes(testnet: Testnet) -> Iterator[Nodes]:
    """The nodes that the fixtures of this test make."""
    from tailnet._engine.wait import wait
    from tailnet.testing.service import Nodes

    nodes = Nodes(testnet)
    yield nodes
    wait(nodes.close())


@pytest.fixture
def tailnet_factory(_tailnet_nodes: Nodes) -> Callable[..., TailnetHandle]:
    """Give what makes nodes that know each other and are closed after the test.

    `tailnet_factory("third", tags=["tag:web"])` joins; fields are those of TailnetConfig.
    """
    from tailnet._engine.wait import wait
    from tailnet._tailnet import TailnetHandle

    def join(hostname: str, **fields: Any) -> TailnetHandle:
        return TailnetHandle(wait(_tailnet_nodes.join(hostname, **fields)))

    return join


@pytest.fixture
def tailnet_node(tailnet_factory: Callable[..., TailnetHandle]) -> TailnetHandle:
    """A node, "node", that has joined."""
    return tailnet_factory("node")


@pytest.fixture
def tailnet_pair(tailnet_factory: Callable[..., TailnetHandle]) -> TailnetPair:
    """Two nodes that know each other, (server, client)."""
    from tailnet.testing.service import TailnetPair

    return TailnetPair(tailnet_factory("server"), tailnet_factory("client"))


@pytest.fixture
def tailnet_service(testnet: Testnet, _tailnet_nodes: Nodes) -> Iterator[ServiceFactory]:
    """Give what runs a service in a thread; see tailnet.testing.service.Service.

    `with tailnet_service(serve) as service`; it runs from the call on. What it raises is raised at
    the end of the `with`, or else at the end of the test.
    """
    factory = ServiceFactory(testnet, _tailnet_nodes)
    yield factory
    factory.stop()


@pytest.fixture
def async_tailnet_factory(
    _tailnet_nodes: Nodes,
) -> Callable[..., Awaitable[AsyncTailnetHandle]]:
    """Give what makes nodes for asyncio; `await` it, and see tailnet_factory."""
    from tailnet._engine.wait import wait_async
    from tailnet._tailnet_async import AsyncTailnetHandle

    async def join(hostname: str, **fields: Any) -> AsyncTailnetHandle:
        return AsyncTailnetHandle(await wait_async(_tailnet_nodes.join(hostname, **fields)))

    return join


@pytest.fixture
def async_tailnet_node(tailnet_node: TailnetHandle) -> AsyncTailnetHandle:
    """A node, "node", that has joined, for asyncio."""
    from tailnet._tailnet_async import AsyncTailnetHandle

    return AsyncTailnetHandle(tailnet_node._node)


@pytest.fixture
def async_tailnet_pair(tailnet_pair: TailnetPair) -> AsyncTailnetPair:
    """Two nodes that know each other, (server, client), for asyncio."""
    from tailnet._tailnet_async import AsyncTailnetHandle
    from tailnet.testing.service import AsyncTailnetPair

    return AsyncTailnetPair(*(AsyncTailnetHandle(each._node) for each in tailnet_pair))


@pytest.fixture
def async_tailnet_service(testnet: Testnet, _tailnet_nodes: Nodes) -> Iterator[AsyncServiceFactory]:
    """Give what runs a service as a task; see tailnet.testing.service.AsyncService.

    `async with async_tailnet_service(serve) as service`; it runs in between.
    """
    factory = AsyncServiceFactory(testnet, _tailnet_nodes)
    yield factory
    if not _failed:
        factory.stop()


class ServiceFactory:
    """What `tailnet_service` is: call it."""

    def __init__(self, net: Testnet, nodes: Nodes) -> None:
        self._net = net
        self._nodes = nodes
        self._services: list[Service] = []

    def __call__(
        self,
        serve: Serve,
        *,
        address: str = ":80",
        hostname: str = "service",
        stop: Callable[[], object] | None = None,
    ) -> Service:
        """Run a service; the arguments are those of Service."""
        from tailnet.testing.service import Service

        service = Service(
            self._net, serve, address=address, hostname=hostname, stop=stop, nodes=self._nodes
        )
        self._services.append(service)
        return service.start()

    def stop(self) -> None:
        """End what still runs, the last one first, and raise what a service raised."""
        while self._services:
            self._services.pop().stop()


class AsyncServiceFactory:
    """What `async_tailnet_service` is: call it, and enter what it returns."""

    def __init__(self, net: Testnet, nodes: Nodes) -> None:
        self._net = net
        self._nodes = nodes
        self._services: list[AsyncService] = []

    def __call__(
        self,
        serve: AsyncServe,
        *,
        address: str = ":80",
        hostname: str = "service",
        stop: Callable[[], object] | None = None,
    ) -> AsyncService:
        """Return a service to enter; the arguments are those of AsyncService."""
        from tailnet.testing.service import AsyncService

        service = AsyncService(
            self._net, serve, address=address, hostname=hostname, stop=stop, nodes=self._nodes
        )
        self._services.append(service)
        return service

    def stop(self) -> None:
        """Fail a test that has one made and not run."""
        services, self._services = self._services, []
        if not all(service.was_entered for service in services):
            pytest.fail(
                "async_tailnet_service: a service was made and never run: "
                "`async with async_tailnet_service(serve) as service` runs it",
                pytrace=False,
            )


# --- what a test leaves open ------------------------------------------------------------------

# The fixtures above, all of which need one of these.
_OURS = frozenset({"testnet", "_tailnet_nodes"})

_check: LeakCheck | None = None  # of the test that runs
_failed = False  # whether it has: then a traceback keeps things open, and it is failed already


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the option."""
    parser.addini(
        LEAK_CHECK,
        "what a test that uses tailnet's fixtures may not leave open: what is of the tailnet "
        '("tailnet"), every descriptor ("fds"), or "off"',
        default="tailnet",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    config.addinivalue_line(
        "markers", "testnet(**options): options of ControlServer for the fixture testnet"
    )
    config.addinivalue_line(
        "markers", f"{LEAK_CHECK}(mode): as the option {LEAK_CHECK}, for this test"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember what is open before the first fixture of a test."""
    global _check, _failed  # noqa: PLW0603 - one test runs at a time
    _stop_looking()
    _failed = False
    if _OURS.isdisjoint(getattr(item, "fixturenames", ())):
        return
    marker = item.get_closest_marker(LEAK_CHECK)
    mode = marker.args[0] if marker and marker.args else item.config.getini(LEAK_CHECK)
    if mode not in _MODES:
        raise pytest.UsageError(f"{LEAK_CHECK}: want one of {', '.join(_MODES)}, not {mode!r}")
    if mode != "off":
        from tailnet.testing._leaks import LeakCheck

        _check = LeakCheck(cast("Mode", mode))


@pytest.hookimpl(hookwrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
    """Do not count what a fixture opens that outlives the test."""
    if _check is None or fixturedef.scope == "function":
        yield
        return
    with _check.forgiving():
        yield


@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Fail a test that passed although its service failed, or that forgot something open."""
    # Stopped here, because an exception is the test's only as long as its fixtures are there.
    for name in ("tailnet_service", "async_tailnet_service"):
        factory = getattr(item, "funcargs", {}).get(name)
        if isinstance(factory, (ServiceFactory, AsyncServiceFactory)):
            factory.stop()
    if _check is not None:
        _complain(_check.forgotten())


def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> None:
    """Remember that a test has failed."""
    global _failed  # noqa: PLW0603 - as above
    _failed = _failed or call.excinfo is not None


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Look for what is open after the last fixture of a test."""
    if _check is not None:
        left = _check.finish(judge=not _failed)
        _stop_looking()
        if not _failed:
            _complain(left)


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    _stop_looking()


def _stop_looking() -> None:
    global _check
    check, _check = _check, None
    if check is not None:
        check.close()


def _complain(left: list[str]) -> None:
    if left:
        pytest.fail(
            f"left open: {'; '.join(left)}\n"
            f"Close it in the test or in a fixture: `with` does. {LEAK_CHECK} says what counts; "
            "see docs/testing.md of tailnet.",
            pytrace=False,
        )
