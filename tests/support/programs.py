"""Programs that join an offline tailnet."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

from tailnet.testing import Testnet

SETTINGS = {"TS_EPHEMERAL": "true", "TS_HOSTNAME": "program"}


PROGRAM = """
import contextlib, os, signal, socket, subprocess, sys, threading, time
from tailnet import *
from tailnet.testing import Testnet
"""


def start(net: Testnet, code: str, **env: str) -> subprocess.Popen[str]:
    """Start a program that joins the tailnet by default."""
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM + textwrap.dedent(code)],
        env={**os.environ, **net.environ(), **SETTINGS, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(net: Testnet, code: str, **env: str) -> str:
    """Run a program to its end, without a word on stderr, and return what it printed."""
    with start(net, code, **env) as program:
        out, err = program.communicate(timeout=60)
    assert (program.returncode, err) == (0, "")
    return out
