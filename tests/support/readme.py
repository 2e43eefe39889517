"""The README's programs."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def blocks() -> list[str]:
    """Return the README's Python blocks in order."""
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
