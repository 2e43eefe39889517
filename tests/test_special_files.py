"""Files that a user names and that are none to read: FIFOs, devices, sockets, what never ends."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tailnet import AsyncTailnet, Tailnet, TailnetConfig, TailnetConfigError
from tailnet._engine.scratch import Scratch
from tests.support.files import fifo, sparse, unix_socket, zero

# Well under the 2 s in which an error must be there; a hang ends as a failure.
pytestmark = pytest.mark.timeout(20)


def endless(path: Path) -> str:
    """Link a file of /proc that says it is empty, and has more than a key has."""
    path.symlink_to("/proc/kallsyms")
    return "it has more than"


KINDS = [fifo, zero, unix_socket, sparse]
Ways = Callable[[Path], object]


def configuration(path: Path) -> object:
    """Read a configuration."""
    return TailnetConfig.from_file(path)


def key_file(path: Path) -> object:
    """Read a key as joining does."""
    return Tailnet(hostname="n", auth_key_file=path, ephemeral=True).up(timeout=2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", [configuration, key_file])
def test_only_a_regular_file_of_a_sane_size_is_read(
    kind: Callable[[Path], str], way: Ways, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anything else is a TailnetConfigError at once that names the path and what is there."""
    monkeypatch.delenv("TS_AUTHKEY", raising=False)
    path = tmp_path / "file.toml"
    says = kind(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    with pytest.raises(TailnetConfigError, match=f"cannot read {path}: {says}"):
        way(path)
    assert time.monotonic() - began < 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_the_event_loop_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key file that is a FIFO fails the coroutine that joins, and keeps no other one waiting."""
    monkeypatch.delenv("TS_AUTHKEY", raising=False)
    fifo(tmp_path / "key")
    tailnet = AsyncTailnet(hostname="n", auth_key_file=tmp_path / "key", ephemeral=True)

    async def main() -> float:
        loop, longest = asyncio.get_running_loop(), 0.0
        joining = asyncio.ensure_future(tailnet.up(timeout=2))
        last = loop.time()
        while not joining.done():
            await asyncio.sleep(0.01)
            longest, last = max(longest, loop.time() - last), loop.time()
        with pytest.raises(TailnetConfigError, match="it is a FIFO"):
            joining.result()
        return longest

    assert asyncio.run(main()) < 1.0


def test_a_temporary_directory_whose_name_is_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where TMPDIR is not UTF-8, sockets are made in /tmp, under a name that is."""
    odd = os.fsdecode(bytes(tmp_path) + b"/\xff")
    Path(odd).mkdir()
    monkeypatch.setattr("tempfile.tempdir", odd)
    scratch = Scratch()
    try:
        assert Path(scratch.path).parent == Path("/tmp")
        scratch.path.encode()
    finally:
        scratch.remove()


@pytest.mark.skipif(not Path("/proc/kallsyms").exists(), reason="only Linux has such a file")
def test_a_file_may_lie_about_its_size(tmp_path: Path) -> None:
    """No more is read than the limit of a file that says it has no byte."""
    path = tmp_path / "key"
    says = endless(path)
    with pytest.raises(TailnetConfigError, match=f"auth_key_file: cannot read {path}: {says}"):
        TailnetConfig(hostname="n", auth_key_file=path).to_native({})
