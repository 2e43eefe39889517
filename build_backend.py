"""The build backend: setuptools, plus Go from the package index where the machine has none.

pip asks a backend what a build needs before it starts; that is the one moment at which Go can be
asked for only where it is missing. Everything else is setuptools' own. Read next: build_go.py.
"""

from __future__ import annotations

from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

import build_go

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Return what a wheel needs here; ends with one sentence where it cannot be built at all."""
    build_go.check_machine()
    return [*build_meta.get_requires_for_build_wheel(config_settings), *build_go.go_requirements()]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """Return what an editable install needs here, which is what a wheel needs."""
    build_go.check_machine()
    return [
        *build_meta.get_requires_for_build_editable(config_settings),
        *build_go.go_requirements(),
    ]
