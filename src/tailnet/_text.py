"""Make text of others fit for a message or a log line.

A control server, a peer, a file and a caller may put anything into their words: escape sequences
that a terminal obeys, line ends that forge a log line, marks that turn text around, a megabyte.
Every message of an error, every log line of the library (_engine/logs.py) and every name that
control assigns (_node/node.py) passes through here.
"""

from __future__ import annotations

# Characters. What wraps a message that was cut already adds less than the difference.
_LONGEST = 2500
_HEAD, _TAIL = 1500, 500  # of what is cut: advice stands at the end


def printable(text: str) -> str:
    r"""Escape what does not print, as in "\x1b", and cut what is long in its middle.

    What it has returned, it returns again.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escaped(c) for c in text)
    if len(text) > _LONGEST:
        more = len(text) - _HEAD - _TAIL
        text = f"{text[:_HEAD]}... ({more:,} more characters) ...{text[-_TAIL:]}"
    return text


def quoted(value: object) -> str:
    """Return the repr of an argument that cannot be used, or its type where it has none."""
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - of any class, or of a number of more than 4,300 digits
        return f"a {type(value).__name__}"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
