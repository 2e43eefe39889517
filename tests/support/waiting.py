"""Waiting for a condition, by its name."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

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


# The system calls that wait: accept4, poll or ppoll, recvfrom, epoll_wait or _pwait, read.
WAITING = {
    "x86_64": {"accept": {288}, "poll": {7, 271}, "recv": {45}, "epoll": {232, 281}, "read": {0}},
    "aarch64": {"accept": {242}, "poll": {73}, "recv": {207}, "epoll": {22}, "read": {63}},
}


def sits_in(call: str, thread: int) -> bool:
    """Report whether a thread, of any process of ours, is blocked in a system call."""
    number = Path(f"/proc/{thread}/syscall").read_text("ascii").split()[0]
    return number in map(str, WAITING[os.uname().machine][call])


def waits(thread: threading.Thread) -> bool:
    """Report whether a thread sleeps in the kernel, and not for Python's own lock."""
    task = Path(f"/proc/self/task/{thread.native_id}")
    state = (task / "stat").read_text().rpartition(")")[2].split()[0]
    return state == "S" and "futex" not in (task / "wchan").read_text()
