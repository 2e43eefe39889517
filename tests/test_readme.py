"""The README's code does what the README says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

from tailnet.testing import Testnet
from tests import test_conformance
from tests.support import backends
from tests.support.readme import blocks


def test_service_and_caller_meet(tmp_path: Path) -> None:
    """The first two blocks, run as two programs, meet on a tailnet."""
    service, caller = blocks()[:2]
    with Testnet(auth_key="tskey-auth-readme") as net:
        env = {
            **os.environ,
            "TS_AUTHKEY": net.auth_key,
            "TS_CONTROL_URL": net.url,
            "PYTHONWARNINGS": "error",
        }
        env["XDG_STATE_HOME"] = env["HOME"] = str(tmp_path)
        with subprocess.Popen(
            [sys.executable, "-c", service], env=env, stdout=subprocess.PIPE, text=True
        ) as first:
            assert first.stdout is not None
            assert first.stdout.readline().startswith("api.")
            second = subprocess.run(
                [sys.executable, "-c", "from tailnet import Tailnet, TailnetConfig\n" + caller],
                env=env,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert second.stderr == ""
            assert re.fullmatch(r"Hello \S+@\S+!\n", second.stdout.strip("\n") + "\n")
            assert first.wait(30) == 0


def test_testing_block_runs() -> None:
    """The block on tests without an account runs as it stands."""
    (block,) = [b for b in blocks() if "Testnet" in b]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_asking_block_runs(tmp_path: Path) -> None:
    """The block on what else there is, run in a program, tells how things are."""
    (block,) = [b for b in blocks() if "from_file" in b]
    with Testnet() as net, net.tailnet("db") as db, db.listen(":5432"):
        (tmp_path / "service.toml").write_text(
            f'[tailnet]\nhostname = "asked"\nephemeral = true\ncontrol_url = "{net.url}"\n'
        )
        code = "from tailnet import Tailnet, TailnetConfig\n" + block
        with subprocess.Popen(
            [sys.executable, "-u", "-c", code],
            cwd=tmp_path,
            env={**os.environ, "TS_AUTHKEY": net.auth_key},
            stdout=subprocess.PIPE,
            text=True,
        ) as program:
            assert program.stdout is not None
            assert "hostname='db'" in program.stdout.readline()
            assert program.stdout.readline() == "False None\n"
            assert 0 < float(program.stdout.readline()) < 10
            assert any(line == "StateChanged(state='Running')\n" for line in program.stdout)
            assert (tmp_path / "node.pcap").stat().st_size > 24
            program.kill()


def test_every_block_is_python() -> None:
    """No block has a typing error, those included that need a server to run."""
    for block in blocks():
        compile(block, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_table_of_backends_is_that_of_the_tests() -> None:
    """docs/backends.md says what the conformance suite holds each backend to."""
    document = backends.DOCUMENT.read_text("utf-8")
    assert document == backends.written(document, test_conformance), (
        "python -m tests.support.backends"
    )
