"""A node that has joined before and cannot just come back: its key or its tags do not do."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailnet import RetryPolicy, TailnetAuthError, TailnetConnectError, TailnetLoginRequired
from tailnet.testing import Testnet
from tests.support.daemon import binaries
from tests.support.faces import Face
from tests.support.held import nothing_left
from tests.support.managed import HOW, no_child_left
from tests.support.threads import Pool
from tests.support.waiting import eventually

OLD, NEW = ("tag:old",), ("tag:new", "tag:newer")
ONCE = RetryPolicy(retries=0)
numbers = itertools.count()


@pytest.fixture(scope="module")
def net() -> Iterator[Testnet]:
    """A tailnet that lets everybody in, until a person is to log them in."""
    with Testnet(auth_key="") as each:
        each.tailnet("first").up().close()  # what a process opens once is no leak of a test
        yield each


@contextlib.contextmanager
def joining(face: Face, net: Testnet, name: str, **fields: Any) -> Iterator[Any]:
    """Yield a Tailnet that has not joined, and close it."""
    tailnet: Any = face.tailnet(net.config(name, **fields))
    try:
        yield tailnet
    finally:
        face.leave(tailnet)


# --- an expired key ---


@pytest.fixture(params=["embedded", "managed"])
def expired(
    request: pytest.FixtureRequest, net: Testnet, tmp_path: Path
) -> Iterator[dict[str, Any]]:
    """The settings of a node that a person has logged in, and whose key has expired."""
    name = f"expired{next(numbers)}"
    fields: dict[str, Any] = {"state_dir": tmp_path / "state"}
    if request.param == "managed":
        fields |= {**HOW, "tailscaled_path": binaries()[0]}
    with nothing_left(), no_child_left():
        net.control.set_require_login(True)
        with contextlib.closing(net.tailnet(name, **fields)) as tailnet:
            tailnet.up(20, on_login=net.control.complete_login)
        net.control.expire_keys(name)
        try:
            yield {"name": name, **fields}
        finally:
            net.control.set_require_login(False)


def test_up_again_after_the_key_was_extended(
    face: Face, net: Testnet, expired: dict[str, Any]
) -> None:
    """Once the admin has extended the key, the next up() goes on at once, as the same node."""
    with joining(face, net, **expired) as tailnet:
        with pytest.raises(TailnetLoginRequired, match="its node key has expired, or an admin"):
            face.up(tailnet)
        with pytest.raises(TailnetLoginRequired):  # not yet
            face.up(tailnet)
        net.control.extend_keys(expired["name"])
        began = time.monotonic()
        tn = face.up(tailnet, timeout=20)
        assert time.monotonic() - began < 2
        assert tn.handle.hostname == expired["name"]


def test_waiting_while_the_key_is_extended(
    face: Face, net: Testnet, expired: dict[str, Any]
) -> None:
    """An up() that waits with on_login goes on at once too."""
    urls: list[str] = []
    with joining(face, net, **expired) as tailnet, Pool(1) as pool:
        waiting = pool.submit(face.up, tailnet, on_login=urls.append, timeout=30)
        eventually("it waits for a person, or fails", lambda: urls or waiting.done())
        assert urls, waiting.result()
        net.control.extend_keys(expired["name"])
        began = time.monotonic()
        joined: Any = waiting.result()
        assert joined.handle.hostname == expired["name"]
        assert time.monotonic() - began < 2
    assert len(urls) == 1


def test_a_person_may_log_it_in_as_well(face: Face, net: Testnet, expired: dict[str, Any]) -> None:
    """Where nobody extends the key, the login that up() told of stays good."""
    with joining(face, net, **expired) as tailnet:
        with pytest.raises(TailnetLoginRequired) as caught:
            face.up(tailnet)
        # The map that the server sends for the old key, which has expired still, changes nothing.
        net.control.set_app_caps({})
        with pytest.raises(TailnetLoginRequired) as again:
            face.up(tailnet)
        assert again.value.url == caught.value.url
        net.control.complete_login(caught.value.url)
        assert face.up(tailnet, timeout=20).handle.hostname.startswith("expired")


def test_an_outage_while_a_person_is_awaited(
    face: Face, net: Testnet, expired: dict[str, Any]
) -> None:
    """The key is extended while the control server cannot be reached: it is noticed afterwards."""
    with joining(face, net, **expired) as tailnet:
        with pytest.raises(TailnetLoginRequired):
            face.up(tailnet)
        net.control.fault("refuse")
        net.control.extend_keys(expired["name"])
        net.control.fault("none")
        tn = face.up(tailnet, on_login=lambda _: None, timeout=20)
        assert tn.handle.hostname == expired["name"]


# --- the network map of its last life ---


@pytest.mark.parametrize("backend", ["embedded", "managed"])
def test_it_is_not_up_before_control_has_answered(
    face: Face, net: Testnet, tmp_path: Path, backend: str
) -> None:
    """Where control is away, a node is not up on what it had been told before."""
    fields: dict[str, Any] = {"name": f"back{next(numbers)}", "state_dir": tmp_path / "state"}
    if backend == "managed":
        fields |= {**HOW, "tailscaled_path": binaries()[0]}
    with no_child_left():
        ip, _ = joined(face, net, fields)
        for fault in ("refuse", "hang"):
            net.control.fault(fault)
            try:
                with (
                    joining(face, net, **fields, connect_timeout=2.0, retry=ONCE) as tailnet,
                    pytest.raises(TailnetConnectError),
                ):
                    face.up(tailnet, timeout=20)
            finally:
                net.control.fault("none")
        assert joined(face, net, fields)[0] == ip


# --- other tags ---


@pytest.fixture(params=["embedded", "managed"])
def fields(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The settings of a node with a state directory, in this process or in a tailscaled of ours."""
    managed = {**HOW, "tailscaled_path": binaries()[0]} if request.param == "managed" else {}
    with no_child_left():
        yield {"name": f"tagged{next(numbers)}", "state_dir": tmp_path / "state", **managed}


@pytest.fixture(scope="module")
def strict() -> Iterator[Testnet]:
    """A tailnet that wants a key of new nodes."""
    with Testnet() as each:
        yield each


def joined(face: Face, net: Testnet, fields: dict[str, Any], **others: Any) -> tuple[Any, Any]:
    """Join and leave; return the node's address and tags."""
    with joining(face, net, **{**fields, **others}) as tailnet:
        tn = face.up(tailnet, timeout=20)
        return tn.handle.ip, set(tn.status().self.tags)


def test_new_tags_are_asked_for(face: Face, strict: Testnet, fields: dict[str, Any]) -> None:
    """Other tags in the configuration are the node's after the next up(), also none at all."""
    ip, tags = joined(face, strict, fields, tags=OLD)
    assert tags == set(OLD)
    for new in (NEW, NEW[::-1], (), OLD):
        began = time.monotonic()
        assert joined(face, strict, fields, tags=new) == (ip, set(new))
        assert time.monotonic() - began < 8
    keys = {node.key for node in strict.control.nodes() if node.hostname == fields["name"]}
    assert joined(face, strict, fields, tags=OLD) == (
        ip,
        set(OLD),
    )  # and those that are there are not
    assert keys == {n.key for n in strict.control.nodes() if n.hostname == fields["name"]}


@pytest.mark.parametrize("why", ["the tags are refused", "there is no key"])
def test_new_tags_that_cannot_be_had(
    face: Face, strict: Testnet, fields: dict[str, Any], why: str
) -> None:
    """It is a TailnetAuthError that names both, each time, until the former ones are back."""
    ip, _ = joined(face, strict, fields, tags=OLD)
    # A managed daemon goes on with its former key meanwhile, so it is given connect_timeout.
    wrong: dict[str, Any] = {"tags": NEW, "connect_timeout": 2.0}
    if why == "there is no key":
        wrong["auth_key"] = None
    else:
        strict.control.set_grantable_tags(OLD)
    try:
        for _ in range(2):
            with joining(face, strict, **{**fields, **wrong}) as tailnet:
                began = time.monotonic()
                with pytest.raises(TailnetAuthError, match=r"refused|no usable|let node") as caught:
                    face.up(tailnet)
                assert time.monotonic() - began < 5
            said = str(caught.value)
            assert (
                "has joined with tag:old, and the configuration now has tag:new, tag:newer" in said
            )
            assert "give it an auth key that may give these" in said
        assert joined(face, strict, fields, tags=OLD) == (ip, set(OLD))
    finally:
        strict.control.set_grantable_tags(None)


def test_new_tags_by_a_persons_login(face: Face, net: Testnet, tmp_path: Path) -> None:
    """Without a key, where a person may log the node in, the error has the URL, and names both."""
    fields: dict[str, Any] = {"name": f"asked{next(numbers)}", "state_dir": tmp_path / "state"}
    ip, _ = joined(face, net, fields, tags=OLD)
    net.control.set_require_login(True)
    try:
        with joining(face, net, tags=NEW, **fields) as tailnet:
            with pytest.raises(
                TailnetLoginRequired, match=r"tag:old.*tag:new, tag:newer"
            ) as caught:
                face.up(tailnet)
            net.control.complete_login(caught.value.url)
            tn = face.up(tailnet, timeout=20)
            assert tn.handle.ip == ip
            assert set(tn.status().self.tags) == set(NEW)
    finally:
        net.control.set_require_login(False)


def test_tags_that_were_taken_away(
    face: Face, strict: Testnet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Tags that an admin has changed since are left alone, with a warning that names both."""
    caplog.set_level("WARNING", "tailnet")
    fields: dict[str, Any] = {"name": f"edited{next(numbers)}", "state_dir": tmp_path / "state"}
    joined(face, strict, fields, tags=OLD)
    strict.control.set_tags(fields["name"], ["tag:admin"])
    assert joined(face, strict, fields, tags=OLD)[1] == {"tag:admin"}
    eventually("it warns", lambda: "tag:admin, and not tag:old" in caplog.text)
