"""The pytest plugin: its fixtures, what it says of leaks and of services that fail, what it costs.

Each test runs another pytest on a project of its own. The example and docs/testing.md are two.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tailnet.testing._control import KNOBS

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "tested_service"
DOCS = ROOT / "docs" / "testing.md"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give pytest room for what it says of each failure."""
    monkeypatch.setenv("COLUMNS", "300")


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    """Run the project's tests as a user does, but with warnings as errors."""
    return pytester.runpytest_subprocess(
        "-W", "error", "-p", "no:cacheprovider", "-p", "no:randomly", *args, timeout=90
    )


def project(pytester: pytest.Pytester, body: str) -> pytest.RunResult:
    """Run one module of tests."""
    pytester.makepyfile("import asyncio, os, pytest, socket\nkept = []\n" + body)
    return run(pytester)


def test_the_example_passes(pytester: pytest.Pytester) -> None:
    """examples/tested_service is a project whose tests pass as it stands."""
    for file in EXAMPLE.glob("*.py"):
        (pytester.path / file.name).write_text(file.read_text())
    run(pytester).assert_outcomes(passed=4)


def test_the_documentation_is_true(pytester: pytest.Pytester) -> None:
    """Every code block of docs/testing.md is a file of one project, whose tests pass."""
    blocks = re.findall(r"```(\w*)\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert {language for language, _ in blocks} == {"python"}
    names = [code.partition("\n")[0].removeprefix("# ") for _, code in blocks]
    assert len(set(names)) == len(names)
    tests = 0
    for name, (_, code) in zip(names, blocks, strict=True):
        assert re.fullmatch(r"\w+\.py", name)
        (pytester.path / name).write_text(code)
        tests += len(re.findall(r"^ *def test_", code, re.MULTILINE))
    run(pytester).assert_outcomes(passed=tests)


def test_the_documentation_has_every_fixture(pytester: pytest.Pytester) -> None:
    """docs/testing.md describes every fixture and option that the plugin has."""
    listed = pytester.runpytest_subprocess("--fixtures", timeout=60).stdout.str()
    fixtures = re.findall(r"^(\w*(?:tailnet|testnet)\w*) --", listed, re.MULTILINE)
    assert len(fixtures) == 9
    text = DOCS.read_text()
    assert [name for name in [*fixtures, "tailnet_leak_check"] if f"`{name}`" not in text] == []


def test_a_forgotten_node_fails_its_test(pytester: pytest.Pytester) -> None:
    """A node that is dropped without being closed fails the test, by name, and no other test."""
    result = project(
        pytester,
        """
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestWarning")
def test_leaks(testnet):
    testnet.tailnet("api").up()

def test_next(tailnet_node):
    pass
""",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines("FAILED *::test_leaks - Failed: left open: node 'api'*")


@pytest.mark.parametrize("cycle", [False, True], ids=["dropped", "in a cycle"])
def test_a_forgotten_connection_fails_its_test(pytester: pytest.Pytester, cycle: bool) -> None:
    """A connection that is dropped without being closed fails the test, though Python closes it."""
    result = project(
        pytester,
        f"""
import gc
gc.disable()  # a collection would find the cycle at any time

@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestWarning")
def test_leaks(tailnet_node, tailnet_factory):
    with tailnet_node.listen(":80"):
        held = [tailnet_factory("x").dial("node:80")]
        if {cycle}:
            held.append(held)

def test_next(tailnet_node):
    pass
""",
    )
    result.assert_outcomes(**({"passed": 2, "errors": 1} if cycle else {"passed": 1, "failed": 1}))
    result.stdout.fnmatch_lines(
        "*left open: fd * -> socket:* (<TailnetSocket *; it is no longer referenced)*"
    )


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ("kept.append(testnet.tailnet('api').up())", "node 'api' (api.*"),
        ("kept.append(tailnet_node.listen(':80'))", "fd * -> socket:* (<TailnetListener *80)>)"),
        ("kept.append(tailnet_node.watch())", "fd * -> socket:* (a watch, *)"),
        (
            "with tailnet_node.listen(':80'): kept.append(tailnet_factory('x').dial('node:80'))",
            "fd * -> socket:* (<TailnetSocket *)",
        ),
    ],
    ids=["node", "listener", "watch", "connection"],
)
def test_what_is_left_open_is_named(pytester: pytest.Pytester, left: str, said: str) -> None:
    """What is open when all fixtures are closed is an error of that test, and of no other."""
    result = project(
        pytester,
        f"""
def test_leaks(testnet, tailnet_node, tailnet_factory):
    {left}

def test_next(tailnet_node):
    pass
""",
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines([f"left open: {said}", "*ERROR *::test_leaks - *"])


def test_other_descriptors_count_where_asked_for(pytester: pytest.Pytester) -> None:
    """A file or another socket that is left open is named in mode "fds", and only there."""
    result = project(
        pytester,
        """
def test_lax(tailnet_node):
    kept.append(socket.socketpair())
    kept.append(asyncio.new_event_loop())
    kept.append(os.open("/dev/null", os.O_RDONLY))

@pytest.mark.tailnet_leak_check("fds")
def test_strict(tailnet_node):
    kept.append(os.open("/dev/null", os.O_RDONLY))

@pytest.mark.tailnet_leak_check("fds")
def test_clean(tailnet_pair):
    asyncio.run(asyncio.sleep(0))

@pytest.mark.tailnet_leak_check("off")
def test_off(testnet):
    kept.append(testnet.tailnet("api").up())

def test_without_our_fixtures():
    kept.append(os.open("/dev/null", os.O_RDONLY))

def test_close():
    kept[2] and kept[1].close()
    kept[-2].close()
""",
    )
    result.assert_outcomes(passed=6, errors=1)
    result.stdout.fnmatch_lines(["left open: fd * -> /dev/null", "*ERROR *::test_strict - *"])


def test_wider_fixtures_are_no_leak(pytester: pytest.Pytester) -> None:
    """What a fixture of a wider scope opens is not counted, whenever it is set up."""
    result = project(
        pytester,
        """
from tailnet.testing import Testnet

@pytest.fixture(scope="module")
def testnet():
    with Testnet() as net:
        yield net

@pytest.fixture(scope="module")
def api(testnet):
    with testnet.tailnet("api") as tn, tn.listen(":80"):
        yield tn

def test_late(tailnet_node, request):
    tailnet_node.dial((str(request.getfixturevalue("api").ip), 80), timeout=10).close()

def test_later(api, tailnet_node):
    tailnet_node.dial("api:80", timeout=10).close()
""",
    )
    result.assert_outcomes(passed=2)


def test_a_failed_test_is_not_blamed_twice(pytester: pytest.Pytester) -> None:
    """What a traceback holds open is no second failure, and the next test starts clean."""
    result = project(
        pytester,
        """
def test_fails(testnet):
    tn = testnet.tailnet("api").up()
    assert not tn

def test_next(testnet):
    with testnet.tailnet("api") as tn:
        assert tn.fqdn == "api." + testnet.domain
""",
    )
    result.assert_outcomes(passed=1, failed=1)


def test_a_bad_mode_is_refused(pytester: pytest.Pytester) -> None:
    """An unknown tailnet_leak_check is an error that names the ones there are."""
    pytester.makepyfile("def test_it(testnet): pass")
    result = run(pytester, "-o", "tailnet_leak_check=some")
    result.stdout.fnmatch_lines("*want one of tailnet, fds, off, not 'some'*")
    assert result.ret != 0


SERVICES = """
def broken(listener, tn):
    with listener.accept()[0]:
        raise ZeroDivisionError("in the service")

async def broken_async(listener, tn):
    with (await asyncio.get_running_loop().sock_accept(listener))[0]:
        raise ZeroDivisionError("in the service")

def ask(service):
    with service.dial() as conn:
        assert conn.recv(10) == b"an answer"
"""


def test_a_failing_service_fails_its_test(pytester: pytest.Pytester) -> None:
    """Its exception is the test's failure, with the test's own as its cause, in both faces."""
    result = project(
        pytester,
        SERVICES
        + """
def test_in_with(tailnet_service):
    with tailnet_service(broken) as service:
        ask(service)

def test_without_with(tailnet_service):
    with tailnet_service(broken).dial() as conn, pytest.raises((AssertionError, OSError)):
        assert conn.recv(10)

def test_async(async_tailnet_service):
    async def scenario():
        async with async_tailnet_service(broken_async) as service:
            with await service.dial() as conn:
                await asyncio.get_running_loop().sock_recv(conn, 10)
    asyncio.run(scenario())
""",
    )
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            f"FAILED *::{name} - ZeroDivisionError: in the service"
            for name in ("test_in_with", "test_without_with", "test_async")
        ]
    )


def test_a_service_ends_as_it_is_told(pytester: pytest.Pytester) -> None:
    """By its listener, by `stop`, by being cancelled; one that does not end is named."""
    result = project(
        pytester,
        """
import select
import threading
from tailnet.testing import service as services

def test_stop(tailnet_service):
    over = threading.Event()
    with tailnet_service(lambda listener, tn: over.wait(), stop=over.set) as service:
        assert service.node.hostname == "service"

def test_polls(tailnet_service):
    def serve(listener, tn):
        while True:
            select.select([listener], [], [], 0.01)  # of a closed socket: ValueError
    with tailnet_service(serve):
        pass

def test_returns(tailnet_service):
    service = tailnet_service(lambda listener, tn: None)
    service.stop()
    service.stop()

def test_two(tailnet_service):
    def serve(listener, tn):
        while True:
            listener.accept()[0].close()
    for service in [tailnet_service(serve, hostname=name) for name in ("one", "two")]:
        with service.dial() as conn:
            assert conn.recv(1) == b""

def test_dialed_when_it_is_over(tailnet_service):
    service = tailnet_service(lambda listener, tn: None)
    while service.listener.fileno() >= 0:
        threading.Event().wait(0.01)
    with pytest.raises(ConnectionRefusedError) as caught:
        service.dial()
    assert str(caught.value.__cause__).startswith("service 'service' is over: `serve` has returned")

def test_dialed_when_it_has_failed(testnet):
    def serve(listener, tn):
        raise ZeroDivisionError
    service = services.Service(testnet, serve)
    with pytest.raises(ZeroDivisionError), service:
        while service.listener.fileno() >= 0:
            threading.Event().wait(0.01)
        with pytest.raises(ConnectionRefusedError) as caught:
            service.dial(None)  # which would wait for ever
        assert "it raised ZeroDivisionError" in str(caught.value.__cause__)

def test_dialed_when_it_is_over_async(async_tailnet_service):
    async def serve(listener, tn):
        pass
    async def scenario():
        async with async_tailnet_service(serve) as service:
            await asyncio.sleep(0)  # it begins, and is over
            with pytest.raises(ConnectionRefusedError) as caught:
                await service.dial()
            assert "`serve` has returned" in str(caught.value.__cause__)
    asyncio.run(scenario())

def test_stubborn(tailnet_service, monkeypatch):
    monkeypatch.setattr(services, "STOP_TIMEOUT", 0.1)
    over = threading.Event()
    service = tailnet_service(lambda listener, tn: over.wait(), hostname="mule")
    with pytest.raises(RuntimeError, match="'mule' did not end"):
        service.stop()
    over.set()

def test_wrong_kind(tailnet_service):
    async def serve(listener, tn):
        pass
    with pytest.raises(TypeError, match="AsyncService"), tailnet_service(serve):
        pass

def test_wrong_kind_async(async_tailnet_service):
    async def scenario():
        async with async_tailnet_service(lambda listener, tn: None):
            await asyncio.sleep(0)  # it begins
    with pytest.raises(TypeError, match="use Service"):
        asyncio.run(scenario())

def test_async_stop(async_tailnet_service):
    async def scenario():
        over = asyncio.Event()
        async def serve(listener, tn):
            await over.wait()
        async def stop():
            over.set()
        async with async_tailnet_service(serve, stop=stop) as service:
            assert service.address == (str(service.node.ip), 80)
    asyncio.run(scenario())
""",
    )
    result.assert_outcomes(passed=11)


def test_a_service_that_never_ran_fails_its_test(pytester: pytest.Pytester) -> None:
    """`service = async_tailnet_service(serve)` and no `async with`: nothing was tested."""
    result = project(
        pytester,
        """
def test_it(async_tailnet_service):
    async_tailnet_service(None)

def test_it_by_name(request):
    request.getfixturevalue("async_tailnet_service")(None)

def test_blamed_once(async_tailnet_service):
    async_tailnet_service(None)
    raise ZeroDivisionError

def test_no_join(async_tailnet_service):
    async def scenario():
        async with async_tailnet_service(None, hostname="x" * 99):
            pass
    with pytest.raises(ValueError, match="hostname"):
        asyncio.run(scenario())
""",
    )
    result.assert_outcomes(passed=2, failed=2, errors=1)  # by name, it is seen when it is torn down
    result.stdout.fnmatch_lines(["*async_tailnet_service: a service was made and never run: *"])


def test_asyncio_fixtures_fit_anyios_plugin(pytester: pytest.Pytester) -> None:
    """In a test that anyio's plugin runs, the nodes work as under asyncio.run."""
    result = project(
        pytester,
        """
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_it(async_tailnet_pair, async_tailnet_node, async_tailnet_factory):
    third = await async_tailnet_factory("third")
    server, client = async_tailnet_pair
    for node in (client, async_tailnet_node, third):
        with await server.listen(":80") as listener, await node.dial("server:80") as out:
            conn, peer = await asyncio.get_running_loop().sock_accept(listener)
            conn.close()
            assert peer == out.getsockname()
""",
    )
    result.assert_outcomes(passed=1)


def test_it_costs_nothing_where_it_is_not_used(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of tests without our fixtures neither loads the library nor starts anything."""
    for name in KNOBS:  # of other tests' offline tailnets
        monkeypatch.delenv(name, raising=False)
    result = project(
        pytester,
        """
import sys, threading

def test_it():
    assert "pytest_tailnet" in sys.modules
    assert "pydantic" not in sys.modules
    for name in ("_native", "testing._leaks", "testing.service"):
        assert "tailnet." + name not in sys.modules
    assert "TS_NO_LOGS_NO_SUPPORT" not in os.environ
    assert not [t for t in threading.enumerate() if t.name.startswith("tailnet")]
""",
    )
    result.assert_outcomes(passed=1)


def test_the_rest_of_the_package_needs_no_pytest() -> None:
    """tailnet.testing and its services can be imported where pytest is not installed."""
    code = (
        "import sys; sys.modules['pytest'] = None\nimport tailnet.testing, tailnet.testing.service"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
