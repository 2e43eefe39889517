"""Whether this process may have the memory that the library takes, before it is loaded.

Go reserves address space as it starts, and ends the process, Python with it, where that is
refused: as it loads, or later in a collection. No exception can be made of that, so `ulimit -v`
and `ulimit -d` are looked at before.
"""

from __future__ import annotations

import contextlib
import errno
import resource
import sys
from pathlib import Path
from typing import NamedTuple

from ..errors import TailnetResourceError

_MIB = 1 << 20


class _Limit(NamedTuple):
    number: int  # for getrlimit(2)
    what: str
    used: str  # in /proc/self/status
    needed: int  # bytes, more than are used


# Measured on Linux (x86_64, Go 1.26): loading takes 1,620 MiB of addresses and 100 MiB of data, a
# node that is up 140 MiB and 80 MiB more. The rest is for its heap: 20 busy connections ran with
# 200 MiB of it.
LIMITS = {
    "ulimit -v": _Limit(resource.RLIMIT_AS, "address space", "VmSize", 2304 * _MIB),
    "ulimit -d": _Limit(resource.RLIMIT_DATA, "data", "VmData", 512 * _MIB),
}


def check() -> None:
    """Raise TailnetResourceError where a limit of this process leaves the library no room."""
    if sys.platform != "linux":  # macOS has these limits and does not keep to them
        return
    sizes = used()
    for command, limit in LIMITS.items():
        allowed, _ = resource.getrlimit(limit.number)
        needed = sizes.get(limit.used, 0) + limit.needed
        if allowed != resource.RLIM_INFINITY and allowed < needed:
            raise TailnetResourceError(
                f"`{command} {allowed >> 10}` lets this process have {allowed // _MIB:,} MiB of "
                f"{limit.what}, and Go, which aborts a process that runs out of it, needs "
                f"{needed // _MIB:,} MiB; run `{command} unlimited` before the program, or ask the "
                "batch system that sets this limit for more memory",
                number=errno.ENOMEM,
            )


def used() -> dict[str, int]:
    """Return the sizes in /proc/self/status, in bytes, by name."""
    sizes: dict[str, int] = {}
    with contextlib.suppress(OSError):  # no /proc: what is used already is little
        for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                sizes[name] = int(value.removesuffix(" kB")) << 10
    return sizes
