"""The state directory: whose it must be, what may be in it, and that one node holds it."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tailnet import Tailnet, TailnetConfigError, TailnetStateLocked
from tailnet.testing import Testnet
from tests.support.files import fifo, sparse, unix_socket, zero
from tests.support.held import nothing_left
from tests.support.managed import HOW
from tests.support.sidecar import root

SOMEBODY = 65533  # no user or group of this system
BACKENDS: dict[str, dict[str, Any]] = {
    "embedded": {},
    "managed": {**HOW, "tailscaled_path": "/bin/true"},  # not run: the directory is refused before
}
each_backend = pytest.mark.parametrize("fields", BACKENDS.values(), ids=BACKENDS)


@pytest.fixture(autouse=True)
def _leaves_nothing(net: Testnet) -> Iterator[None]:
    del net  # it comes first, and stays
    with nothing_left():
        yield


@contextlib.contextmanager
def joining(net: Testnet, state: Path, **fields: Any) -> Iterator[Tailnet]:
    """Yield a Tailnet that has not joined, and close it."""
    tailnet = net.tailnet("kept", state_dir=state, **fields)
    try:
        yield tailnet
    finally:
        tailnet.close()


def refused(net: Testnet, state: Path, **fields: Any) -> str:
    """Return why a state directory is refused, within 2 s; what is there stays as it was."""
    before = {path: path.lstat().st_ctime_ns for path in state.parent.rglob("*")}
    began = time.monotonic()
    with joining(net, state, **fields) as tailnet, pytest.raises(TailnetConfigError) as caught:
        tailnet.up()
    assert time.monotonic() - began < 2.0
    after = {path: path.lstat().st_ctime_ns for path in state.parent.rglob("*")}
    made = {state / "tailnet.lock", state}  # what is in it is looked at once it is locked
    assert {k: v for k, v in after.items() if k not in made}.items() <= before.items()
    return str(caught.value)


def state_of(net: Testnet, tmp_path: Path) -> Path:
    """Return the state directory of a node that has joined and left."""
    state = tmp_path / "state"
    with joining(net, state) as tailnet:
        tailnet.up(timeout=20)
    return state


# --- whose it is ---


@root
@each_backend
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_directory_of_another_user_is_refused(
    net: Testnet, tmp_path: Path, mode: int, fields: dict[str, Any]
) -> None:
    """Its owner could replace the node's keys: the error says owner, mode, and what to do."""
    state = tmp_path / "state"
    state.mkdir(mode)
    os.chown(state, SOMEBODY, SOMEBODY)
    said = refused(net, state, **fields)
    assert f"{state} belongs to user {SOMEBODY} and group {SOMEBODY}" in said
    assert f"mode {mode:04o}" in said
    assert "this program runs as user root (0)" in said
    assert "chown it to 0, name another state_dir" in said
    assert "trust_state_dir=True" in said
    assert list(state.iterdir()) == []


@each_backend
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_a_directory_that_others_may_write_to_is_refused(
    net: Testnet, tmp_path: Path, mode: int, fields: dict[str, Any]
) -> None:
    """So is one that everybody may write to, be it sticky: they could put files there first."""
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(mode)
    said = refused(net, state, **fields)
    assert f"mode {mode:04o}, and every user may write to it" in said
    assert "chmod o-w it" in said
    assert ("name a directory inside it" in said) is bool(mode & 0o1000)
    assert list(state.iterdir()) == []


@each_backend
def test_what_is_no_directory_is_refused(
    net: Testnet, tmp_path: Path, fields: dict[str, Any]
) -> None:
    """The error says what it is, and advises no chmod."""
    file = tmp_path / "file"
    file.write_text("")
    null = tmp_path / "null"
    null.symlink_to("/dev/null")
    for path, what in ((file, f"{file} is no directory, but a regular file"), (null, "a device")):
        assert f"{what}; name a directory" in refused(net, path, **fields)


@root
def test_a_directory_that_a_group_may_write_to(net: Testnet, tmp_path: Path) -> None:
    """A group may write where nobody else is in it: root's, or one of this process's alone."""
    state = tmp_path / "state"
    state.mkdir()
    named = next(g for g in grp.getgrall() if g.gr_gid)
    for group, why in ((named.gr_gid, named.gr_name), (SOMEBODY, str(SOMEBODY))):
        os.chown(state, 0, group)
        state.chmod(0o2770)
        said = refused(net, state)
        assert why in said
        assert "mode 2770, and members of that group may write to it" in said
        assert "chmod g-w it" in said
    groups = os.getgroups()
    os.setgroups([*groups, SOMEBODY])  # as Kubernetes does it for fsGroup
    try:
        with joining(net, state) as tailnet:
            tailnet.up(timeout=20)
    finally:
        os.setgroups(groups)
    os.chown(state, 0, 0)
    with joining(net, state) as tailnet:
        tailnet.up(timeout=20)


@root
def test_as_an_ordinary_user(net: Testnet, tmp_path: Path) -> None:
    """One's own directory is used, with one's private group's right to write, and root's is too."""
    user = pwd.getpwnam("nobody")
    state = tmp_path / "state"
    code = (
        "import os, sys; from tailnet import *; from tailnet._engine import lib\n"
        "from tailnet._sockets import handover; lib.stats()\n"
        f"os.setgroups([]); os.setgid({SOMEBODY}); os.setuid({user.pw_uid})\n"
        f"for name in sys.argv[1:]:\n"
        "    try: Tailnet(hostname='other', state_dir=name, connect_timeout=20).up().close()\n"
        "    except TailnetConfigError as e: print('refused', e)\n"
        "    else: print('joined')\n"
    )
    for ancestor in tmp_path.parents:  # pytest's directories are for root alone
        if ancestor.stat().st_mode & 0o011 == 0:
            ancestor.chmod(0o711)
    tmp_path.chmod(0o755)
    owners = ((user.pw_uid, 0o700), (user.pw_uid, 0o2770), (SOMEBODY, 0o2770), (0, 0o2770))
    states = [tmp_path / f"{state.name}{n}" for n in range(len(owners))]
    for path, (owner, mode) in zip(states, owners, strict=True):
        path.mkdir()
        os.chown(path, owner, SOMEBODY)
        path.chmod(mode)
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, states)],
        env={**os.environ, **net.environ(), "HOME": "/"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    words = [line.split()[0] for line in run.stdout.splitlines()]
    assert words == ["joined", "joined", "refused", "joined"], run.stdout


@root
def test_a_directory_above_it_counts(net: Testnet, tmp_path: Path) -> None:
    """Whoever may replace a directory on the way is as good as the owner; a link is followed."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, SOMEBODY, 0)
    assert f"{theirs} belongs to user {SOMEBODY}" in refused(net, theirs / "a" / "b")
    assert list(theirs.iterdir()) == []
    open_ = tmp_path / "open"
    open_.mkdir()
    open_.chmod(0o777)
    assert f"{open_} belongs to user root (0)" in refused(net, open_ / "a")
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "link").symlink_to(theirs / "state")
    assert f"{theirs} belongs to user {SOMEBODY}" in refused(net, ours / "link")
    open_.chmod(0o1777)  # sticky, as /tmp: what is ours in it stays ours, and what is theirs theirs
    (open_ / "link").symlink_to(ours)
    os.lchown(open_ / "link", SOMEBODY, 0)
    assert f"{open_ / 'link'} belongs to user {SOMEBODY}" in refused(net, open_ / "link")
    os.lchown(open_ / "link", 0, 0)
    with joining(net, open_ / "link" / "state") as tailnet:
        tailnet.up(timeout=20)
    assert (ours / "state" / "tailscaled.state").exists()


@root
def test_a_file_of_another_user_in_it(net: Testnet, tmp_path: Path) -> None:
    """A state that somebody else wrote, or may write, is not taken for this node's."""
    state = state_of(net, tmp_path)
    file = state / "tailscaled.state"
    os.chown(file, SOMEBODY, SOMEBODY)
    assert f"{file} belongs to user {SOMEBODY}" in refused(net, state)
    os.chown(file, 0, 0)
    file.chmod(0o666)
    assert f"{file} belongs to user root (0)" in refused(net, state)


@root
def test_who_means_it_may(net: Testnet, tmp_path: Path) -> None:
    """trust_state_dir=True uses any directory, as that of a container's volume, and its files."""
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, SOMEBODY, SOMEBODY)
    state.chmod(0o777)
    for _ in range(2):
        with joining(net, state, trust_state_dir=True) as tailnet:
            tailnet.up(timeout=20)
        os.chown(state / "tailscaled.state", SOMEBODY, SOMEBODY)


def test_files_are_for_this_user_alone(net: Testnet, tmp_path: Path) -> None:
    """Whatever the umask, nobody else may read what a node keeps."""
    former = os.umask(0)
    try:
        state = state_of(net, tmp_path)
    finally:
        os.umask(former)
    for path in (state, *state.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


# --- what is in it ---


@each_backend
@pytest.mark.parametrize("kind", [fifo, zero, unix_socket, sparse])
@pytest.mark.parametrize(
    "name",
    ["tailscaled.state", "tailnet.lock", "tailscaled.log.conf", "profile-data", "certs/a.key"],
)
def test_only_regular_files_are_in_it(
    net: Testnet,
    tmp_path: Path,
    name: str,
    kind: Callable[[Path], str],
    fields: dict[str, Any],
) -> None:
    """A FIFO, a link, a socket or a file beyond all bounds is named before tsnet opens it."""
    path = tmp_path / "state" / name
    path.parent.mkdir(parents=True)
    kind(path)
    said = refused(net, tmp_path / "state", **fields)
    assert said.startswith("state_dir: ")
    assert path.name in said
    words = {"fifo": "a FIFO", "zero": "a symbolic link", "unix_socket": "", "sparse": "1024 MiB"}
    assert words[kind.__name__] in said


def test_the_lock_file_makes_no_file_elsewhere(net: Testnet, tmp_path: Path) -> None:
    """A tailnet.lock that is a link is refused, and nothing is made where it points."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "tailnet.lock").symlink_to(tmp_path / "elsewhere")
    assert "tailnet.lock is a symbolic link" in refused(net, state)
    assert not (tmp_path / "elsewhere").exists()


# --- who holds it ---


def test_a_removed_lock_file_lets_nobody_in(net: Testnet, tmp_path: Path) -> None:
    """Without the file, or with another in its place, the directory is held as before."""
    state = tmp_path / "state"
    lock = state / "tailnet.lock"
    with joining(net, state) as owner:
        owner.up(timeout=20)
        for again in (False, True):
            lock.unlink(missing_ok=True)
            if again:
                lock.touch()
            with joining(net, state) as thief, pytest.raises(TailnetStateLocked, match=str(state)):
                thief.up()
    with joining(net, state) as heir:
        heir.up(timeout=20)
