"""Write the synchronous face, src/tailnet/_tailnet.py, from the asynchronous one.

    python tools/async_to_sync.py            write it
    python tools/async_to_sync.py --check    fail where it is not what would be written

Rules of this file:

- Both faces have one text, _tailnet_async.py, comments and docstrings included.
- Words that differ are in WORDS. What else differs is in TEXTS, and must occur once, so that no
  entry outlives the sentence it was for.
- ruff formats the result, as `make fmt` would.
"""

# ruff: noqa: E501 - lines of docstrings, as they stand there

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "tailnet" / "_tailnet_async.py"
TARGET = ROOT / "src" / "tailnet" / "_tailnet.py"

WORDS = {
    r"async (?=def|with|for)": "",
    r"await (?=\w)": "",
    r"\bAsync(?=Capture|Iterator|Tailnet|Watch)": "",
    r"\bStopAsyncIteration\b": "StopIteration",
    r"\bwait_async\b": "wait",
    r", shielded=True": "",
    r"\bfor_async_with\b": "for_with",
    r"__a(?=enter__|exit__|next__)": "__",
    r"\ba task\b": "a thread",
    r"\ban asynchronous iterator\b": "an iterator of events",
    r"\b([aA])(\s+)cancellation\b": r"\1n\2interrupt",
}

TEXTS = {
    '''"""The asynchronous face: `AsyncTailnet`, not yet joined, and `AsyncTailnetHandle`, the live one.

Rules of this file:

- It is the source of the synchronous face, _tailnet.py: edit this one, and run
  `python tools/async_to_sync.py`.
- Nothing here knows how anything is done: each method runs one generator of tailnet/_node. What
  both faces share without waiting is in _faces.py.
- Sockets are non-blocking, as event loops want them, and no thread is started.
- It runs on asyncio and on trio; which one, _engine/wait.py sees.
"""''': '''"""The synchronous face: `Tailnet`, not yet joined, and `TailnetHandle`, the live connection.

Written by tools/async_to_sync.py from _tailnet_async.py: edit that file.
"""''',
    """            on_login: Called with the URL where a person must log in; it may be a coroutine
                function. up() then goes on waiting, for that and for an admin's approval.
""": """            on_login: Called with the URL where a person must log in; up() then goes on waiting,
                for that and for an admin's approval.
""",
    """
        The listener is non-blocking: give it to `asyncio.start_server(sock=...)`, or accept with
        `loop.sock_accept`.
""": "",
    """Connect to a peer and return a real connected, non-blocking socket.

        Give it to `asyncio.open_connection(sock=...)`.
""": """Connect to a peer and return a real connected, blocking socket.
""",
    """Connect with the arguments of `socket.create_connection`; the socket is non-blocking.
""": """Connect as `socket.create_connection` does; the socket keeps the timeout.
""",
    "timeout, 0.0))": "timeout, None))",
    "timeout, 0.0, socket_options": "timeout, timeout, socket_options",
    "blocking=False": "blocking=True",
    "`async with` and `await up()` give": "`with` and up() give",
    """            StopAsyncIteration: the node was closed, or close() called.
""": """            StopIteration: the node was closed, or close() called. (In a generator, catch it:
                Python makes it a RuntimeError there.)
""",
}


def written() -> str:
    """Return the synchronous face's text."""
    text = SOURCE.read_text("utf-8")
    for here, there in TEXTS.items():
        if text.count(here) != 1:
            raise SystemExit(f"{SOURCE.name} has {text.count(here)} times, and not once:\n{here}")
        text = text.replace(here, there)
    for here, there in WORDS.items():
        text = re.sub(here, there, text)
    for command in (["check", "--fix", "--select", "I,RUF022"], ["format"]):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--quiet", "--stdin-filename", TARGET, "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return text


def main() -> None:
    """Write it, or compare."""
    text = written()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, "utf-8")
    elif text != TARGET.read_text("utf-8"):
        raise SystemExit(f"{TARGET.name} is not what tools/async_to_sync.py writes: run it")


if __name__ == "__main__":
    main()
