"""Every cause of every error, provoked, and docs/errors.md written from here.

python -m tests.test_error_table     writes the table into docs/errors.md
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

import tailnet
from tailnet import (
    TailnetApprovalRequired,
    TailnetAuthError,
    TailnetClosed,
    TailnetConfig,
    TailnetConfigError,
    TailnetConnectError,
    TailnetDialError,
    TailnetError,
    TailnetForked,
    TailnetInternalError,
    TailnetListenError,
    TailnetLoginRequired,
    TailnetNameError,
    TailnetPeerNotFound,
    TailnetRefused,
    TailnetResourceError,
    TailnetStateLocked,
    TailnetTimeout,
    TailnetUnreachable,
    TailnetUnsupported,
)
from tailnet._engine import lib
from tailnet.models import Removed
from tailnet.testing import Testnet
from tests.support import daemon
from tests.support.error_rows import WRONG, Place, Row, locals_of
from tests.support.error_rows_sidecar import SIDECAR
from tests.support.held import nothing_left
from tests.support.limits import descriptors
from tests.support.waiting import eventually

DOCUMENT = Path(__file__).parent.parent / "docs" / "errors.md"


def closed(place: Place) -> object:
    tn = place.up()
    tn.close()
    return tn.status()


def two_on_one_directory(place: Place) -> object:
    state = place.tmp_path / "state"
    place.up(state_dir=state)
    return place.up(state_dir=state)


def corrupt_state(place: Place) -> object:
    state = place.tmp_path / "corrupt"
    state.mkdir()
    (state / "tailscaled.state").write_text("{")
    return place.up(state_dir=state)


def damaged_key(place: Place) -> object:
    state = place.tmp_path / "damaged"
    state.mkdir()
    (state / "tailscaled.state").write_text('{"_machinekey": "AAAA"}')
    return place.up(state_dir=state)


def disk(place: Place, options: str) -> Path:
    """Mount a disk of its own for a state directory."""
    state = place.tmp_path / "disk"
    state.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "none", state], check=True
    )
    place.stack.callback(lambda: subprocess.run(["umount", "--lazy", state], check=True))
    return state


def open_to_others(place: Place) -> object:
    state = place.tmp_path / "open"
    state.mkdir()
    state.chmod(0o777)
    return place.up(state_dir=state)


def special_state(place: Place) -> object:
    state = place.tmp_path / "special"
    state.mkdir()
    os.mkfifo(state / "tailscaled.state")
    return place.up(state_dir=state)


def full_disk(place: Place) -> object:
    state = disk(place, "size=4k")
    (state / "ballast").write_bytes(bytes(4096))
    return place.up(state_dir=state)


def nearly_full_disk(place: Place) -> object:
    """Join where there is room to begin with, and none to go on."""
    state = disk(place, "size=400k")
    with (state / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    os.truncate(state / "ballast", (state / "ballast").stat().st_size - (16 << 10))
    return place.up(state_dir=state / "node")


def read_only(place: Place) -> object:
    return place.up(state_dir=disk(place, "ro"))


def silent_peer(place: Place) -> object:
    net = place.testnet()
    tn = place.up(net)
    net.control.add_fake_nodes(1)
    eventually("it has heard", lambda: tn.status().peers)
    return tn.dial(f"{tn.status().peers[0].ips[0]}:80", timeout=0.3)


def expired(place: Place) -> object:
    net = place.testnet()
    peer = net.tailnet("peer")
    place.stack.callback(peer.close)
    name = peer.up().hostname
    tn = place.up(net)
    net.control.expire_keys("node")
    eventually("it has heard", lambda: tn.status().state == "NeedsLogin")
    return tn.dial(f"{name}:80")


def removed(place: Place) -> object:
    net = place.testnet()
    tn = place.up(net)
    with tn.watch() as events:
        net.control.remove_node("node")
        while not isinstance(events.next(timeout=10), Removed):
            pass
    return tn.whois(tn.ip)


def expires_meanwhile(place: Place) -> object:
    net = place.testnet()
    tn = place.up(net)
    net.control.add_fake_nodes(1)
    eventually("it has heard", lambda: tn.status().peers)
    threading.Timer(0.3, net.control.expire_keys, ["node"]).start()
    return tn.dial(f"{tn.status().peers[0].ips[0]}:80")


def deadline(place: Place) -> object:
    net = place.testnet()
    net.control.fault("refuse")
    tailnet = net.tailnet("node")
    place.stack.callback(tailnet.close)
    place.began = time.monotonic()
    return tailnet.up(timeout=0.5)


def two_values_in_one_process(place: Place) -> object:
    return place.up(log_upload=True)


def taken(place: Place) -> object:
    place.stack.enter_context(place.tn.listen(":8080"))
    return place.tn.listen(":8080")


def no_descriptors(place: Place) -> object:
    """Ask while not one descriptor is left."""
    try:
        with descriptors(0):
            return place.tn.status()
    finally:
        assert place.tn.status().state == "Running"


def in_a_child(place: Place) -> object:
    """Ask in a forked child, and raise here what came of it there."""
    code = (
        "import os, sys, pickle, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from tailnet import Tailnet, TailnetConfig, TailnetError\n"
        "tn = Tailnet(TailnetConfig(hostname='forked', ephemeral=True)).up()\n"
        "sys.stdout.flush()\n"
        "if os.fork() == 0:\n"
        "    try: tn.status()\n"
        "    except TailnetError as e: os.write(1, pickle.dumps(e))\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    env = {**os.environ, **place.net.environ()}
    done = subprocess.run([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, check=True)
    import pickle

    raise pickle.loads(done.stdout)


UP = [
    Row(
        "the key is wrong, expired, used or revoked",
        lambda p: p.up(auth_key=WRONG),
        TailnetAuthError,
        2,
        "refused node",
        "give it a valid auth key",
    ),
    Row(
        "the control server refuses the registration by HTTP 400, 401 or 403, as headscale does",
        lambda p: p.broken("refuse_http", status=403),
        TailnetAuthError,
        2,
        "http 403",
        "give it a valid auth key",
    ),
    Row(
        "a person must log in",
        lambda p: p.up(p.testnet(require_login=True)),
        TailnetLoginRequired,
        2,
        '"node" has no usable auth key',
        "log in at http",
        TailnetAuthError,
        note="`.url`; after the login the next `up()` goes on",
    ),
    Row(
        "an admin must approve the machine",
        lambda p: p.up(p.testnet(require_approval=True)),
        TailnetApprovalRequired,
        4,
        "waits for an admin",
        "call up() again then",
        TailnetAuthError,
        note="each `up()` looks for a second; with `on_login` it waits",
    ),
    Row(
        "nobody listens at the control server's address",
        lambda p: p.broken("refuse"),
        TailnetConnectError,
        2,
        "connection refused",
        "check control_url",
        ConnectionError,
    ),
    Row(
        "the control server answers HTTP 500",
        lambda p: p.broken("status", status=500),
        TailnetConnectError,
        2,
        "500",
        "and the server",
        ConnectionError,
    ),
    Row(
        "what answers is no control server: a proxy, or a network's login page",
        lambda p: p.broken("status", status=200),
        TailnetConnectError,
        2,
        "is no control server",
        "check control_url",
        ConnectionError,
    ),
    Row(
        "it answers HTTP 401 before the registration",
        lambda p: p.broken("status", status=401),
        TailnetConnectError,
        2,
        "401",
        "check control_url",
        ConnectionError,
    ),
    Row(
        "it limits the rate of registrations (HTTP 429)",
        lambda p: p.broken("rate_limit", retry_after=7),
        TailnetConnectError,
        2,
        "rate limited",
        "try again in 7 s",
        ConnectionError,
        note="`.retry_after` is kept to",
    ),
    Row(
        "its certificate is not trusted",
        lambda p: p.up(control_url=p.net.control.untrusted_url),
        TailnetConnectError,
        2,
        "certificate",
        "trust its authority",
        ConnectionError,
    ),
    Row(
        "it accepts connections and never answers",
        lambda p: p.broken("hang"),
        TailnetConnectError,
        3,
        "no answer from",
        "connect_timeout",
        ConnectionError,
        note="after `connect_timeout`, here 1 s",
    ),
    Row(
        "`up(timeout=)` has passed",
        deadline,
        TailnetTimeout,
        2,
        "connection refused",
        "check control_url",
        TimeoutError,
        note="`__cause__` is the last failed attempt's error, if there was one",
    ),
    Row(
        "the tailnet demands logs, and `log_upload` is off",
        lambda p: p.up(p.testnet(node_attrs=["https://tailscale.com/cap/data-plane-audit-logs"])),
        TailnetUnsupported,
        2,
        "only nodes that send their logs",
        "set log_upload=True",
    ),
    Row(
        "another node, in any process, holds the state directory",
        two_on_one_directory,
        TailnetStateLocked,
        2,
        "held by another node",
        "close that one",
    ),
    Row(
        "the state directory is corrupt",
        corrupt_state,
        TailnetConfigError,
        2,
        "is corrupt",
        "restore it",
        ValueError,
    ),
    Row(
        "a key in it is damaged",
        damaged_key,
        TailnetConfigError,
        2,
        "MachineKey",
        "restore the state",
        ValueError,
    ),
    Row(
        "its disk becomes full while the node joins",
        nearly_full_disk,
        TailnetResourceError,
        2,
        "no space left",
        "make room",
        OSError,
        errno.ENOSPC,
        needs_root=True,
    ),
    Row(
        "its disk is full",
        full_disk,
        TailnetResourceError,
        2,
        "no space left",
        "make room",
        OSError,
        errno.ENOSPC,
        needs_root=True,
    ),
    Row(
        "another user owns it, or others may write to it",
        open_to_others,
        TailnetConfigError,
        2,
        "with mode 0777",
        "chmod o-w it",
        ValueError,
        note="or to a directory above it; `trust_state_dir` permits it",
    ),
    Row(
        "another machine has the `hostname`, and `require_hostname=True`",
        lambda p: (p.up(), p.up(require_hostname=True)),
        TailnetConfigError,
        3,
        'and not "node"',
        "give another hostname",
        ValueError,
        note="the machine is logged out again, and `state_dir` as before",
    ),
    Row(
        "there is a FIFO, a link or a device in it",
        special_state,
        TailnetConfigError,
        2,
        "is a FIFO",
        "remove it",
        ValueError,
    ),
    Row(
        "it cannot be created",
        lambda p: p.up(state_dir="/proc/no/such"),
        TailnetConfigError,
        2,
        "cannot create /proc/no/such",
        "name a directory",
        ValueError,
    ),
    Row(
        "it cannot be written to",
        read_only,
        TailnetConfigError,
        2,
        "cannot write to",
        "name a directory",
        ValueError,
        note="as on a read-only disk; before anything starts",
        needs_root=True,
    ),
    Row(
        "`auth_key_file` cannot be read",
        lambda p: p.up(auth_key=None, auth_key_file=p.tmp_path / "none"),
        TailnetConfigError,
        2,
        "auth_key_file: cannot read",
        "name a file",
        ValueError,
    ),
    Row(
        "a setting of the whole process differs from its first node's",
        two_values_in_one_process,
        TailnetConfigError,
        2,
        "log_upload",
        "the same",
        ValueError,
    ),
]

OTHERS = [
    Row(
        "a value of the configuration makes no sense",
        lambda _: TailnetConfig(hostname="no host"),
        TailnetConfigError,
        1,
        "hostname: ",
        "must be a DNS label",
        ValueError,
        note="before anything starts",
    ),
    Row(
        "there is no `hostname`, and a launcher's name (uvicorn, pytest) is none",
        lambda _: TailnetConfig(),  # by pytest
        TailnetConfigError,
        1,
        "hostname: ",
        "TS_HOSTNAME",
        ValueError,
        note="before anything starts",
    ),
    Row(
        "an address makes no sense",
        lambda p: p.tn.dial("nowhere"),
        TailnetConfigError,
        1,
        '"nowhere"',
        "want host:port",
        ValueError,
    ),
    Row(
        "`dial`: nobody listens at the port",
        lambda p: p.tn.dial(f"{p.tn.ip}:9"),
        TailnetRefused,
        2,
        "was refused",
        "start the service",
        ConnectionRefusedError,
        errno.ECONNREFUSED,
    ),
    Row(
        "`dial`: the address is not on the tailnet",
        lambda p: p.tn.dial("192.0.2.1:80"),
        TailnetUnreachable,
        1,
        "not on the tailnet",
        "allow_host_network=True",
        OSError,
        errno.EHOSTUNREACH,
        note="it is never dialed over the host's network",
    ),
    Row(
        "`dial`: the tailnet knows no such name",
        lambda p: p.tn.dial("nobody:80"),
        TailnetNameError,
        2,
        "no machine or name",
        "status().peers",
        OSError,
        note="also `socket.gaierror`",
    ),
    Row(
        "`dial(timeout=)`: the peer does not answer",
        silent_peer,
        TailnetTimeout,
        2,
        "a connection to 100.",
        "may be offline",
        TimeoutError,
    ),
    Row(
        "`up`, `dial`, `listen`, `whois`: an admin has removed this node from the tailnet",
        removed,
        TailnetAuthError,
        2,
        "was removed from the tailnet by an admin",
        "join again with a key",
        note="`watch()` tells, by `Removed`; `close()` it, and make a new `Tailnet`",
    ),
    Row(
        "`dial`: this node's key has expired, or was removed",
        expired,
        TailnetAuthError,
        2,
        "no longer logged in",
        "extend it",
        note="`watch()` tells; extend the key and go on",
    ),
    Row(
        "`dial`: the key expires while it waits",
        expires_meanwhile,
        TailnetAuthError,
        3,
        "no longer logged in",
        "extend it",
    ),
    Row(
        "`dial`: any other failure, with its errno",
        lambda p: p.up(allow_host_network=True).dial("[fe80::1]:80"),  # and no interface
        TailnetDialError,
        2,
        "fe80::1",
        "",
        OSError,
        errno.EINVAL,
    ),
    Row(
        "`listen`: another listener of the node has the port",
        taken,
        TailnetListenError,
        1,
        "another listener",
        "another port",
        OSError,
        errno.EADDRINUSE,
    ),
    Row(
        "`listen`: the address is not this node's",
        lambda p: p.tn.listen("100.64.77.77:80"),
        TailnetListenError,
        1,
        "not an address of node",
        "it has 100.",
        OSError,
        errno.EADDRNOTAVAIL,
    ),
    Row(
        "`whois`: nobody has that address",
        lambda p: p.tn.whois("100.64.77.77"),
        TailnetPeerNotFound,
        1,
        "nobody on the tailnet",
        "status().peers",
        LookupError,
    ),
    Row(
        "any call: this process has no more descriptors",
        no_descriptors,
        TailnetResourceError,
        1,
        "status: Too many open files",
        "ulimit -n",
        OSError,
        errno.EMFILE,
        note="it works again once there are some",
    ),
    Row("used after `close()`", closed, TailnetClosed, 2, "was closed", "make a new Tailnet"),
    Row("used in a forked child", in_a_child, TailnetForked, 10, "was forked", "'spawn'"),
    Row(
        "a bug of this library",
        lambda p: lib._call("tailnet_node_up", p.tn._node.handle(), "not JSON"),
        TailnetInternalError,
        1,
        "not the JSON expected",
        "please report",
        note="please report it",
    ),
]

ROWS = [*UP, *OTHERS, *SIDECAR]


@pytest.fixture
def place(net: Testnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A tailnet with a node, in a program that has secrets in its environment."""
    monkeypatch.setenv("DATABASE_PASSWORD", WRONG)
    with contextlib.ExitStack() as stack:
        tn = stack.enter_context(net.tailnet("tried"))
        yield Place(net, tn, tmp_path, stack, secrets={WRONG, net.auth_key})


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    """Build the daemon before a row: the build says so."""
    daemon.binaries()


@pytest.mark.parametrize("row", ROWS, ids=[row.cause for row in ROWS])
def test_cause(
    row: Row,
    place: Place,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Each cause gives its class at once, says what, to what and why, and leaves nothing."""
    caplog.set_level("DEBUG", "tailnet")
    if row.needs_root and os.geteuid() != 0:
        pytest.skip("only root can be another user, or mount a disk that is full")
    with nothing_left(), place.stack:
        place.began = time.monotonic()
        with pytest.raises(TailnetError) as caught:
            row.provoke(place)
        took = time.monotonic() - place.began
    error = caught.value
    assert type(error) is row.cls, error
    assert isinstance(error, row.builtin)
    assert error.retryable == (row.cls is TailnetConnectError)
    assert row.says in str(error)
    assert row.do in str(error)
    assert len(str(error)) > 20
    assert row.do or row.number, "only an error of the system's may leave open what to do"
    assert "\n" not in str(error)
    assert capfd.readouterr() == ("", "")  # a library prints nothing
    told = "".join(traceback.format_exception(error)) + caplog.text + repr(vars(error))
    told += repr(list(locals_of(error)))
    assert not [secret for secret in place.secrets if secret and secret in told]
    if row.number is not None:
        assert getattr(error, "errno", None) == row.number
    assert took < row.within
    if row.cls is TailnetTimeout and row.provoke is deadline:
        assert isinstance(error.__cause__, TailnetConnectError)


def test_any_number_of_descriptors(net: Testnet) -> None:
    """However few are left, listening works, or says that there are too few."""
    told: list[TailnetResourceError] = []
    with nothing_left(), net.tailnet("scarce") as tn:
        for left in range(12):
            try:
                with descriptors(left), tn.listen(":91"):
                    pass
            except TailnetResourceError as e:
                told.append(e)
        tn.listen(":91").close()
    assert 1 <= len(told) < 12
    assert {e.errno for e in told} == {errno.EMFILE}
    assert all("raise the limit" in str(e) for e in told)


def test_every_class_has_a_cause() -> None:
    """No class of the tree is there for nothing, and each is in the table."""
    classes = {
        cls
        for cls in vars(tailnet).values()
        if isinstance(cls, type) and issubclass(cls, TailnetError) and cls is not TailnetError
    }
    assert classes == {row.cls for row in ROWS}


def table(rows: list[Row]) -> str:
    """Write rows as a table."""
    lines = ["| cause | error | also a | within |", "| --- | --- | --- | --- |"]
    for row in rows:
        also = "" if row.builtin is Exception else f"`{row.builtin.__name__}`"
        if row.number is not None:
            also += f", errno {errno.errorcode[row.number]}"
        cause = row.cause + (f" ({row.note})" if row.note else "")
        lines.append(f"| {cause} | `{row.cls.__name__}` | {also} | {row.within:g} s |")
    return "\n".join(lines)


def written(text: str) -> str:
    """Put the tables where the document has its marks."""
    for name, rows in (("up", UP), ("others", OTHERS), ("sidecar", SIDECAR)):
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda m, rows=rows: m[1] + table(rows) + "\n" + m[2],  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    return text


def test_the_document_is_written_from_here() -> None:
    """docs/errors.md has exactly these rows; `python -m tests.test_error_table` writes it."""
    text = DOCUMENT.read_text("utf-8")
    assert written(text) == text
    assert text.count("<!-- end -->") == 3
    for name in re.findall(r"`(Tailnet\w+)`", text):
        assert hasattr(tailnet, name)


def test_builtins_are_builtins() -> None:
    """What the table says an error also is, is something that Python code already catches."""
    for row in ROWS:
        assert row.builtin is TailnetAuthError or hasattr(builtins, row.builtin.__name__)


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text("utf-8")), "utf-8")
