"""How long a program takes to import: pydantic, tailnet, and the library that the first up() loads.

Each run is a fresh interpreter, and the programs take turns. `import pydantic` alone imports next
to nothing: most of it comes with the first model, so pydantic's own is what one model costs.
Bytecode is there, as it is for an installed package.

Read next: phases.py.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

# What is timed in each, by figure; each prints milliseconds. The last is what up() does first.
_TIMED = "import time; start = time.perf_counter()\n{}\nprint((time.perf_counter() - start) * 1e3)"
_MODEL = "import pydantic\nclass Point(pydantic.BaseModel):\n    x: int = 0"
PROGRAMS = {
    "import_pydantic_ms": _TIMED.format(_MODEL),
    "import_ms": _TIMED.format("import tailnet"),
    "load_ms": "from tailnet._engine import lib\n" + _TIMED.format("lib.require_usable()"),
}


def measure(runs: int) -> dict[str, float]:
    """Return the median of each, in milliseconds."""
    found: dict[str, list[float]] = {figure: [] for figure in PROGRAMS}
    with tempfile.TemporaryDirectory() as bytecode:
        env = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        for number in range(runs + 1):
            for figure, program in PROGRAMS.items():
                command = [sys.executable, "-c", program]
                took = float(subprocess.check_output(command, env=env, timeout=60))
                if number:  # the first run has compiled
                    found[figure].append(took)
    return {figure: statistics.median(values) for figure, values in found.items()}
