"""Lines of Tailscale's code that reach a person: whose they are, and that they hold here."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import ssl
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tailnet import TailnetLoginRequired
from tailnet.testing import Testnet
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _default_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tailnet")


JOIN = """
import logging, sys
from tailnet import Tailnet, TailnetConfig
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
for name in ("one", "two", "one"):
    with Tailnet(TailnetConfig(hostname=name, ephemeral=True, log_level="warning")) as tn:
        tn.status()
with Tailnet(TailnetConfig(hostname="last", ephemeral=True)):
    sys.stdin.read()
"""


def test_a_certificate_that_signs_itself(net: Testnet, tmp_path: Path) -> None:
    """It is one warning at each join, of that node, however many connections the join makes."""
    url = urlsplit(net.control.untrusted_url)
    assert url.hostname
    assert url.port
    authority = tmp_path / "authority.pem"
    authority.write_text(ssl.get_server_certificate((url.hostname, url.port)))
    env = {**os.environ, "TS_AUTHKEY": net.auth_key, "TS_CONTROL_URL": net.control.untrusted_url}
    env["SSL_CERT_FILE"] = str(authority)
    with subprocess.Popen(
        [sys.executable, "-c", JOIN], env=env, stdin=-1, stdout=-1, text=True
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        lines = list(
            itertools.takewhile(lambda line: "[last] AuthLoop" not in line, program.stdout)
        )
        program.stdin.close()
    said = [line for line in lines if "certificate" in line or "tlsdial" in line]
    want = '] the certificate of "127.0.0.1" is trusted, and self-signed by "O=Acme Co"\n'
    names = ("one", "two", "one", "last")
    assert said == [f"WARNING [{name}{want}" for name in names]
    assert not [line for line in lines if " [] " in line]


def test_a_key_beside_a_state(
    net: Testnet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that has joined before is not told to set a variable that is not read."""
    for _ in range(2):
        with net.tailnet("kept", state_dir=tmp_path / "state"):
            pass
    said = f"[kept] this node has joined before, with the state in {tmp_path / 'state'}"
    eventually("it is said", lambda: said in caplog.text)
    assert "TSNET_FORCE_LOGIN" not in caplog.text


def test_where_to_log_in(caplog: pytest.LogCaptureFixture) -> None:
    """Where a person must log in is said once, with the ways to give a key."""
    with Testnet(require_login=True) as net, contextlib.closing(net.tailnet("person")) as tailnet:
        with pytest.raises(TailnetLoginRequired) as caught:
            tailnet.up()
        said = f"[person] a person must log in at {caught.value.url}; or give a key, as auth_key"
        eventually("it is said", lambda: said in caplog.text)
    assert caplog.text.count(caught.value.url) == 1
    assert "tsnet server" not in caplog.text
