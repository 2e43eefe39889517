"""The build backend: setuptools, plus Go from the package index where the machine has none.

pip asks a backend what a build needs before it starts; that is the one moment at which Go can be
asked for only where it is missing. Everything else is setuptools' own. Read next: build_go.py.
"""

from __future__ import annotations

from typing import Any

import build_go
from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 - the rest of the interface, unchanged


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
