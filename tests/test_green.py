"""Processes that gevent or eventlet has patched: refused in a sentence, and served otherwise."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Iterator

import pytest

from tailnet import TailnetHandle
from tailnet.testing import Testnet
from tests.support.waiting import WAIT

PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    # It says of itself that it is deprecated, which is its users' business.
    "eventlet": "import warnings; warnings.simplefilter('ignore'); import eventlet;"
    "eventlet.monkey_patch()",
}
needs_gevent = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="gevent has no wheels for a free-threaded Python",
)
patched = pytest.mark.parametrize(
    "library", [pytest.param("gevent", marks=needs_gevent), "eventlet"]
)

REFUSED = """
def refused(call):
    try:
        call()
    except TailnetUnsupported as e:
        print(e)
"""


@pytest.fixture(scope="module")
def own_net() -> Iterator[Testnet]:
    """An offline tailnet."""
    with Testnet() as testnet:
        yield testnet


def run(net: Testnet, code: str) -> list[str]:
    """Run a program to its end, and return its lines."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **net.environ(), "TS_EPHEMERAL": "true"},
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    # Both print tracebacks of their own where threads, or locks, were there before them.
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@patched
@pytest.mark.parametrize("first", ["patch", "import"])
def test_a_node_does_not_join(own_net: Testnet, library: str, first: str) -> None:
    """up() refuses at once, and loads nothing, wherever in the program the patching is done."""
    lines = [PATCHES[library], "from tailnet import *"]
    if first == "import":
        lines.reverse()
    said = run(
        own_net,
        "\n".join(lines)
        + REFUSED
        + "import sys\n"
        + "refused(Tailnet(hostname='green').up)\n"
        + "print('tailnet._native' in sys.modules)\n",
    )
    assert len(said) == 2
    assert said[0].startswith(f"{library} has replaced this process's sockets by its own")
    assert said[1] == "False"


@patched
def test_a_node_that_has_joined_opens_nothing_more(own_net: Testnet, library: str) -> None:
    """Where the process is patched afterwards, every call refuses, and the node still leaves."""
    code = f"""
from tailnet import *
{REFUSED}
with Tailnet(TailnetConfig.from_env(hostname="patched")) as tn:
    {PATCHES[library]}
    refused(lambda: tn.listen(":80"))
    refused(lambda: tn.dial("patched:80"))
    refused(tn.status)
print(tn.closed)
"""
    *refusals, closed = run(own_net, code)
    assert len(refusals) == 3
    assert all(said.startswith(f"{library} has replaced") for said in refusals)
    assert closed == "True"


@needs_gevent
def test_a_patched_process_serves_on_a_descriptor(
    server: TailnetHandle, client: TailnetHandle
) -> None:
    """A patched server, in a process of its own, serves on the listener of this one."""
    code = """
        from gevent import monkey; monkey.patch_all()
        import socket, sys
        from gevent.pywsgi import WSGIServer
        def app(environ, start_response):
            start_response("200 OK", [])
            return [b"green"]
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=int(sys.argv[1]))
        WSGIServer(listener, app, log=None).serve_forever()
    """
    with (
        server.listen(":0") as listener,
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(listener.fileno())],
            pass_fds=[listener.fileno()],
        ) as green,
    ):
        asking = http.client.HTTPConnection(str(server.ip), listener.getsockname()[1])
        asking.sock = client.create_connection((asking.host, asking.port), WAIT)
        asking.request("GET", "/")
        assert asking.getresponse().read() == b"green"
        asking.close()
        green.kill()
