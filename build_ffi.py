"""The C extension `tailnet._native`: go/tailnet.h made callable from Python by cffi.

Rules of this file:
- The header says everything. The region between its CDEF marks is what cffi parses; the whole of it
  is what the C compiler checks the calls against.
- The extension links against the Go library that lies beside it (rpath), never against one
  elsewhere. setup.py adds the directory to link in, because only it knows which one.
- One build serves every CPython from 3.10 on (the limited API, "abi3").

src/tailnet/_native.pyi describes the result to type checkers. Read next: setup.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cffi import FFI

GO_DIR = Path(__file__).resolve().parent / "go"
HEADER = GO_DIR / "tailnet.h"
MACOS = sys.platform == "darwin"
BESIDE_ITSELF = "@loader_path" if MACOS else "$ORIGIN"


def declarations(header: str) -> str:
    """Return the part of the header that cffi can parse.

    Raises:
        ValueError: a mark is missing.
    """
    _, begin, rest = header.partition("/* CDEF BEGIN */")
    region, end, _ = rest.partition("/* CDEF END */")
    if not begin or not end:
        message = "go/tailnet.h must have one CDEF BEGIN mark and one CDEF END mark"
        raise ValueError(message)
    return region


ffi = FFI()
ffi.cdef(declarations(HEADER.read_text("utf-8")))
ffi.set_source(
    "tailnet._native",
    '#include "tailnet.h"',
    include_dirs=[str(GO_DIR)],
    depends=[str(HEADER)],
    libraries=["tailnet"],
    extra_compile_args=["-g0"],  # debug information would name the build machine's directories
    extra_link_args=[f"-Wl,-rpath,{BESIDE_ITSELF}", *([] if MACOS else ["-Wl,-s"])],
    py_limited_api=True,
)
