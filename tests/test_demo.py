"""`tailnet demo`, as `make run` shows it."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest

import tailnet
from tailnet._engine import lib
from tailnet.cli import demo, main
from tailnet.models import Versions


def test_demo_names_the_caller_and_succeeds() -> None:
    """The demo ends with code 0, the page, and the way to do it on a real tailnet."""
    done = subprocess.run(
        [sys.executable, "-m", "tailnet", "demo"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "GET http://hello/" in done.stdout
    assert '"node": "caller.' in done.stdout
    assert "Right: that is the caller." in done.stdout
    assert "TS_AUTHKEY=" in done.stdout
    assert done.stderr == ""


def test_real_demo_without_a_key_says_what_it_needs() -> None:
    """Without TS_AUTHKEY nothing starts, and the one missing thing is named."""
    done = subprocess.run(
        [sys.executable, "-m", "tailnet", "demo", "--real"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 2
    assert "TS_AUTHKEY" in done.stderr


def test_real_demo_leaves_no_machine_behind() -> None:
    """Its nodes are ephemeral: the control server removes them."""
    assert demo._real("hello").ephemeral


def test_version_names_all_three() -> None:
    """`tailnet version` prints ours, tailscale.com's and Go's, and that this is no wheel."""
    done = subprocess.run(
        [sys.executable, "-m", "tailnet", "version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert sorted(names) == ["go", "tailnet", "tailscale", "wheel"]
    assert "wheel none, it was built here\n" in done.stdout


@pytest.mark.parametrize(
    ("tailscale", "matches", "says"),
    [("v1", True, "wheel matches\n"), ("v2", False, "wheel differs, it has tailscale v2\n")],
)
def test_versions_are_compared_with_the_wheel(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tailscale: str,
    matches: bool,
    says: str,
) -> None:
    """What the wheel's bill of materials lists is compared with what the library says.

    `tailnet.versions()` has both, and `tailnet version` prints it and ends with code 1.
    """
    bill = {
        "metadata": {"component": {"version": "0.1"}},
        "components": [
            {"name": "tailscale.com", "version": tailscale},
            {"name": "std", "version": "1.26"},
        ],
    }
    found = {"tailnet": "0.1", "tailscale": "v1", "go": "go1.26"}
    monkeypatch.setattr(lib, "versions", lambda: found)
    distribution = importlib.metadata.PathDistribution
    monkeypatch.setattr(distribution, "read_text", lambda *_: json.dumps(bill))
    listed = {**found, "tailscale": tailscale}
    assert tailnet.versions() == Versions(**found, wheel=listed)
    assert tailnet.versions().matches_wheel is matches
    assert main(["version"]) == int(not matches)
    assert capsys.readouterr().out.endswith(says)


def test_what_was_built_here_matches_no_wheel() -> None:
    """Without a bill of materials there is nothing to compare with, which is not a no."""
    found = tailnet.versions()
    assert found.tailnet == tailnet.__version__
    assert (found.wheel, found.matches_wheel) == (None, None)
