"""Waiting for a condition, by its name."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

WAIT = 20.0  # seconds for a condition to come true


def eventually(what: str, condition: Callable[[], object], timeout: float = WAIT) -> None:
    """Wait until a condition holds; its name is in the failure."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"never came true: {what}")
        pause.wait(0.005)
