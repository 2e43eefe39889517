"""The child process of a ControlServer: `python -m tailnet.testing OPTIONS`.

It starts the servers and prints {"ok": {"url", "untrusted_url", "domain", "pid"}}. Then it answers
each line of stdin, {"do": "...", "with": {...}}, with {"ok": ...} or {"error": "..."}. It ends with
its stdin, so it does not outlive its parent, however that ends.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from .._engine import lib, ops
from .._engine.wait import wait
from ..errors import TailnetError


def main() -> None:
    """Serve until stdin ends."""
    handle, starting = lib.testcontrol_start(json.loads(sys.argv[1]))
    say({"ok": wait(ops.reply(starting, None, "the control server"))})
    for line in sys.stdin:
        try:
            doing = lib.testcontrol_do(handle, json.loads(line))
            say({"ok": wait(ops.reply(doing, None, "the control server"))})
        except TailnetError as e:
            say({"error": str(e)})


def say(document: dict[str, Any]) -> None:
    """Print one line."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except TailnetError as e:  # at the start: a bad option, a port that is taken
        say({"error": str(e)})
        sys.exit(1)
