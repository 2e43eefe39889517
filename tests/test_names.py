"""The name that control gives a node, where that is not the one it asked for."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailnet import TailnetConfigError, TailnetHandle
from tailnet.testing import Testnet
from tests.support.daemon import binaries
from tests.support.faces import Face
from tests.support.held import nothing_left
from tests.support.managed import HOW
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def api(net: Testnet) -> Iterator[TailnetHandle]:
    """The machine that has the name already."""
    with net.tailnet("api") as tn:
        yield tn


@pytest.fixture(params=["embedded", "managed"])
def how(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The fields of each kind of node that asks for a name."""
    if request.param == "embedded":
        return {}
    return {**HOW, "tailscaled_path": binaries()[0]}


def names(net: Testnet) -> set[str]:
    """The machines that the control server has."""
    return {node.hostname for node in net.control.nodes()}


def tree(path: Path) -> dict[str, bytes | None]:
    """All that is in a directory."""
    return {
        str(each.relative_to(path)): each.read_bytes() if each.is_file() else None
        for each in path.rglob("*")
    }


def test_another_name_is_told(
    face: Face, net: Testnet, api: TailnetHandle, how: dict[str, Any], caplog: Any
) -> None:
    """A warning of the node names both names, and the machine that has the one asked for."""
    caplog.set_level(logging.INFO, "tailnet")
    with face.node(net.config("api", **how)) as node:
        assert node.handle.hostname == node.handle.fqdn.split(".")[0]
        assert re.fullmatch(r"api-\d", node.handle.hostname)
        said = (
            f'[api] the tailnet calls this node "{node.handle.hostname}" and not "api", because'
            f" another machine has that name ({api.ip})"
        )
        eventually("it is told", lambda: said in [r.getMessage() for r in caplog.records])
        assert [r.levelno for r in caplog.records if r.getMessage() == said] == [logging.WARNING]


def test_the_name_asked_for_is_not_told(net: Testnet, caplog: Any) -> None:
    """A node that gets its name, in whatever case it asked, says nothing of names."""
    caplog.set_level(logging.INFO, "tailnet")
    with net.tailnet("Lone", require_hostname=True) as tn:
        assert tn.hostname == "lone"
    with net.tailnet("last"):  # whose lines come later
        eventually("its lines come", lambda: "[last]" in caplog.text)
    assert "the tailnet calls" not in caplog.text


@pytest.mark.parametrize("place", ["memory", "absent", "empty", "used"])
def test_a_name_that_is_required(
    face: Face, net: Testnet, api: TailnetHandle, how: dict[str, Any], place: str, tmp_path: Path
) -> None:
    """Another name is an error, after which neither a machine nor a file is left."""
    fields = {**how, "require_hostname": True}
    if place != "memory":
        fields["state_dir"] = tmp_path / "new" / "and" / "nested"
    if place in {"empty", "used"}:
        fields["state_dir"].mkdir(parents=True)
    if place == "used":
        (fields["state_dir"] / "notes").write_text("of the user")
        (fields["state_dir"] / "tailscaled.state").write_text("{}")
    before, machines = tree(tmp_path), names(net)
    tailnet: Any = face.tailnet(net.config("api", **fields))
    with nothing_left(), contextlib.ExitStack() as last:
        last.callback(face.leave, tailnet)
        with pytest.raises(TailnetConfigError) as caught:
            face.up(tailnet)
        said = str(caught.value)
        assert re.match(r'hostname: the tailnet calls this node "api-\d" and not "api"', said)
        assert f"another machine has that name ({api.ip})" in said
        assert "require_hostname=True, so it has logged out again" in said
        assert names(net) == machines
        assert tree(tmp_path) == before


def test_the_next_attempt(net: Testnet, tmp_path: Path) -> None:
    """Once the name is free, the same Tailnet joins under it."""
    holder = net.tailnet("held")
    holder.up()
    tailnet = net.tailnet("held", require_hostname=True, state_dir=tmp_path / "state")
    with contextlib.closing(tailnet):
        with contextlib.closing(holder), pytest.raises(TailnetConfigError, match="held-1"):
            tailnet.up()
        assert tailnet.up().hostname == "held"


def test_a_machine_that_was_there_stays(
    net: Testnet, api: TailnetHandle, how: dict[str, Any], tmp_path: Path
) -> None:
    """A node with an identity of its own keeps it, where it cannot have the name it now wants."""
    assert api.hostname == "api"
    fields = {**how, "state_dir": tmp_path / "state"}
    with net.tailnet("old", **fields) as tn:
        ips = tn.ips
    with pytest.raises(TailnetConfigError, match="the machine it was before stays"):
        net.tailnet("api", require_hostname=True, **fields).up()
    with net.tailnet("old", **fields) as tn:
        assert tn.ips == ips
