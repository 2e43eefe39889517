"""Plots as SVG, without a library: one bar per contender, with a line from lowest to highest.

The colours read on white and on black; the text takes the colour of the page where it can.
"""

from __future__ import annotations

from html import escape
from typing import NamedTuple

from .results import Spread

WIDTH, LABEL, VALUE = 720, 110, 190  # of the whole, of the names, and of the figures, in pixels
BAR, GAP, TOP = 18, 8, 34

COLOURS = {"go": "#00a29c", "go-raw": "#9aa5b1", "raw": "#9aa5b1", "by-hand": "#b07d2b"}
OURS = "#4a78c9"

STYLE = (
    "text{font:12px sans-serif;fill:#444}.t{font-weight:bold}"
    "@media(prefers-color-scheme:dark){text{fill:#ccc}}"
)


class Bar(NamedTuple):
    """A contender's figure."""

    name: str
    spread: Spread
    note: str = ""


def plot(title: str, bars: list[Bar], *, digits: int = 1) -> str:
    """Return an SVG of these bars."""
    room = WIDTH - LABEL - VALUE
    most = max((bar.spread.high for bar in bars), default=0.0) or 1.0
    height = TOP + len(bars) * (BAR + GAP)
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
            f' viewBox="0 0 {WIDTH} {height}" role="img">'
        ),
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text class="t" x="4" y="18">{escape(title)}</text>',
    ]
    for number, bar in enumerate(bars):
        top = TOP + number * (BAR + GAP)
        middle = top + BAR / 2
        low, median, high = (
            LABEL + room * max(value, 0) / most
            for value in (bar.spread.low, bar.spread.median, bar.spread.high)
        )
        words = f"{bar.spread.median:,.{digits}f}{'  ' + bar.note if bar.note else ''}"
        lines += [
            f'<text x="{LABEL - 8}" y="{middle + 4}" text-anchor="end">{escape(bar.name)}</text>',
            (
                f'<rect x="{LABEL}" y="{top}" width="{max(median - LABEL, 1):.1f}" height="{BAR}"'
                f' fill="{COLOURS.get(bar.name, OURS)}"/>'
            ),
            (
                f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f}'
                f' {middle - 4}v8" stroke="#888" fill="none"/>'
            ),
            f'<text x="{high + 8:.1f}" y="{middle + 4}">{escape(words)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
