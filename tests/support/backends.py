"""The backends behind one set of words, so that one test holds for each; and where they differ.

A difference is declared here and nowhere else, with its reason. The test of what differs is then
expected to fail: one that does not fail any more is an error, so that this list stays true.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from tailnet import TailnetConfig
from tailnet.testing import Testnet
from tests.support.daemon import Daemon

AT_ONCE = (
    "a tailscaled without a TUN closes both directions when one ends (forwardTCPWithProxyProtocol"
    " and serveDial, Tailscale 1.102): shutdown(SHUT_WR) raises TailnetUnsupported"
)
DIFFERENCES: dict[str, dict[str, str]] = {
    "embedded": {},
    "tailscaled": {
        "test_half_close": AT_ONCE,
        "test_the_dialing_end_knows_its_port": "the LocalAPI does not say from which port it"
        " dialed: getsockname() has port 0",
    },
}


class Embedded:
    """Each node is in this process."""

    name = "embedded"
    refuses_late = ""

    def __init__(self, net: Testnet) -> None:
        self.net = net

    def config(self, hostname: str) -> TailnetConfig:
        """Return the configuration of a node of that name."""
        return self.net.config(hostname)


class Sidecar(Embedded):
    """Each node is that of a tailscaled, which runs until the end of the module."""

    name = "tailscaled"
    refuses_late = (
        "the daemon finishes the handshake before it connects to us: beyond the backlog, a"
        " connection is made and then ended"
    )

    def __init__(self, net: Testnet, daemons: contextlib.ExitStack) -> None:
        super().__init__(net)
        self._daemons = daemons
        self._running: dict[str, Daemon] = {}

    def config(self, hostname: str) -> TailnetConfig:
        """Return the configuration of a node of that name."""
        if hostname not in self._running:
            daemon = self._daemons.enter_context(Daemon(self.net))
            daemon.up(hostname)
            self._running[hostname] = daemon
        socket = self._running[hostname].socket
        return TailnetConfig(backend="tailscaled", tailscaled_socket=socket)


@contextlib.contextmanager
def backend(name: str, net: Testnet) -> Iterator[Embedded]:
    """Yield a backend by its name."""
    if name == Embedded.name:
        yield Embedded(net)
        return
    with contextlib.ExitStack() as daemons:
        yield Sidecar(net, daemons)


DOCUMENT = Path(__file__).parents[2] / "docs" / "backends.md"
BEGIN, END = "<!-- table -->\n", "<!-- end -->\n"


def written(document: str, suite: ModuleType) -> str:
    """Return the document with the table of what the suite holds each backend to."""
    lines = ["| what | in the process | userspace tailscaled |", "| --- | --- | --- |"]
    notes: list[str] = []
    for name, test in vars(suite).items():
        if not name.startswith("test_"):
            continue
        cells = []
        for differences in DIFFERENCES.values():
            why = differences.get(name)
            if why and why not in notes:
                notes.append(why)
            cells.append(f"no ({notes.index(why) + 1})" if why else "yes")
        what = inspect.getdoc(test) or ""
        lines.append(f"| {what.splitlines()[0].rstrip('.')} | {' | '.join(cells)} |")
    text = [*lines, "", *(f"{n}. {note}." for n, note in enumerate(notes, 1))]
    text += ["", f"A full backlog: {Sidecar.refuses_late}."]
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n".join(text) + "\n" + END + after


if __name__ == "__main__":
    from tests import test_conformance

    DOCUMENT.write_text(written(DOCUMENT.read_text("utf-8"), test_conformance), "utf-8")
