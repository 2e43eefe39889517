"""What trio asks of a library: checkpoints, shielded ends, its own streams; and anyio on both."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trio.testing

import tailnet
from tailnet import AsyncTailnet, TailnetHandle, TailnetNameError
from tailnet.testing import Testnet
from tests.support.waiting import WAIT, eventually

DOCUMENT = Path(__file__).parents[1] / "docs" / "async.md"


def run(main: Callable[[], Awaitable[Any]]) -> None:
    """Run a program on trio, for a limited time."""

    async def limited() -> None:
        with trio.fail_after(WAIT):
            await main()

    trio.run(limited)


def test_every_call_is_a_checkpoint(net: Testnet, server: TailnetHandle) -> None:
    """Calls that need not wait are, and each notices that its scope is cancelled."""

    async def main() -> None:
        tailnet = net.async_tailnet("checkpoints")
        async with tailnet as tn:
            peer = str(tn.ip)
            await tn.whois(peer)
            calls: list[Callable[[], Awaitable[Any]]] = [
                partial(tn.whois, peer),
                tailnet.up,
                tn.status,
            ]
            for call in calls:
                with trio.testing.assert_checkpoints():
                    await call()
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await call()
                assert scope.cancelled_caught

    assert not server.closed
    run(main)


def test_closing_is_shielded(net: Testnet) -> None:
    """In a cancelled scope a node delivers what was written, and logs out."""

    async def main() -> None:
        config = net.config("hurried", ephemeral=True)
        async with net.async_tailnet("patient") as peer:
            with await peer.listen(":80") as listener:
                with trio.CancelScope() as scope:
                    async with AsyncTailnet(config) as tn:
                        near = await tn.dial((str(peer.ip), 80))
                        with near:
                            near.send(b"goodbye")
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
                assert scope.cancelled_caught
                assert tn.closed
                listener.settimeout(WAIT)
                far, _ = listener.accept()
                with far, far.makefile("rb") as stream:
                    assert stream.read() == b"goodbye"
        assert "hurried" not in {node.hostname for node in net.control.nodes()}

    run(main)


def test_a_deadline_passes(net: Testnet, server: TailnetHandle) -> None:
    """A call's own timeout is a TailnetTimeout; that of a scope around it is trio's."""

    async def main() -> None:
        async with net.async_tailnet("deadlines") as tn:
            net.control.add_fake_nodes(1)
            status = await tn.status()
            while not any(peer.hostname.startswith("fake") for peer in status.peers):
                status = await tn.status()
            with pytest.raises(tailnet.TailnetTimeout):
                await tn.ping("100.65.0.1", timeout=0.1)
            with trio.move_on_after(0.1) as scope:
                await tn.ping("100.65.0.1", timeout=None)
            assert scope.cancelled_caught

    assert not server.closed
    run(main)


def test_two_tasks_share_a_node(net: Testnet) -> None:
    """A task that watches is woken by close() in another one."""

    async def main() -> None:
        async with net.async_tailnet("shared") as tn, trio.open_nursery() as nursery:
            watch = tn.watch()
            ended = trio.Event()

            async def read() -> None:
                async for _ in watch:
                    pass
                ended.set()

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            watch.close()
            await ended.wait()

    run(main)


def programs() -> dict[str, str]:
    """Return the document's programs by the title they stand under."""
    text = DOCUMENT.read_text("utf-8")
    return dict(re.findall(r"## (\w+)\n.*?```python\n(.*?)```", text, re.DOTALL))


def on_asyncio(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run a program on asyncio."""

    async def limited() -> Any:
        return await asyncio.wait_for(main(), WAIT)

    return asyncio.run(limited())


RUNNERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "asyncio": ("asyncio", on_asyncio),
    "trio": ("trio", trio.run),
    "anyio on asyncio": ("anyio", partial(anyio.run, backend="asyncio")),
    "anyio on trio": ("anyio", partial(anyio.run, backend="trio")),
}


@pytest.mark.parametrize("runner", RUNNERS)
def test_the_document_works(runner: str, net: Testnet, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/async.md: what serves greets what calls, by its name."""
    title, runs = RUNNERS[runner]
    for name, value in {**net.environ(), "TS_EPHEMERAL": "true"}.items():
        monkeypatch.setenv(name, value)
    names: dict[str, Any] = {}
    program = programs()[title].replace("TailnetConfig(", "TailnetConfig.from_env(")
    exec(compile(program, f"{title} in {DOCUMENT.name}", "exec"), names)

    async def both() -> None:
        heard = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(names["serve"])
            while heard is None:  # it joins, and then listens
                with contextlib.suppress(ConnectionRefusedError, TailnetNameError):
                    heard = await names["call"]()
            tasks.cancel_scope.cancel()
        assert heard == b"Hello caller!\n"

    runs(both)
    eventually(
        "both have left",
        lambda: not {"api", "caller"} & {node.hostname for node in net.control.nodes()},
    )
