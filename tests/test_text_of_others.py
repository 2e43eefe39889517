"""What others say, in messages and log lines: escaped, on one line, and of a sane length."""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tailnet import (
    RetryPolicy,
    Tailnet,
    TailnetAuthError,
    TailnetConfig,
    TailnetConfigError,
    TailnetConnectError,
    TailnetError,
    TailnetHandle,
    TailnetNotRunning,
)
from tailnet.testing import Testnet
from tests.support.managed import HOW, script

# A terminal's escapes, a bell, line ends that begin a line like one of ours, NUL, and a mark that
# turns what follows around.
HOSTILE = "no\x1b[2J\x07 way\r\n[api] all is well\x00 \u202egpj.exe"
ESCAPED = r"no\x1b[2J\x07 way\r\n[api] all is well\x00 \u202egpj.exe"
ONCE: dict[str, Any] = {"retry": RetryPolicy(retries=0), "log_level": "debug"}


@pytest.fixture(autouse=True)
def _log_lines(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Hold every log line of every test to what a line may be."""
    caplog.set_level("DEBUG", "tailnet")
    yield
    lines = [record.getMessage() for record in caplog.records if record.name == "tailnet"]
    assert all(line.isprintable() and len(line) < 3000 for line in lines), lines


@pytest.fixture
def own_net() -> Iterator[Testnet]:
    """A tailnet whose control server says what the test wants."""
    with Testnet() as net:
        yield net


def said(call: Callable[[], object], cls: type[TailnetError]) -> str:
    """Return the message of an error, the same in all its forms, which cannot harm a terminal."""
    with pytest.raises(cls) as caught:
        call()
    error = caught.value
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    for text in (str(error), *map(str, error.args), str(getattr(error, "strerror", ""))):
        assert text.isprintable()
        assert len(text) < 3000
    return str(error)


def refused(net: Testnet, words: str) -> str:
    """Return the error of a node whose registration is refused in these words."""
    net.control.fault("reject", message=words)
    with_words = net.tailnet("refused", **ONCE)
    try:
        return said(with_words.up, TailnetAuthError)
    finally:
        with_words.close()


def test_the_words_of_a_refusal(own_net: Testnet) -> None:
    """What the control server says of a registration is quoted with its characters escaped."""
    assert ESCAPED in refused(own_net, HOSTILE)


def test_a_megabyte_of_words(own_net: Testnet) -> None:
    """A long text is cut in its middle, with how much, and the advice behind it stays."""
    message = refused(own_net, "x" * 1_000_000)
    assert "... (998," in message
    assert " more characters) ..." in message
    assert message.endswith("give it a valid auth key")


def test_the_reason_of_a_status() -> None:
    """An HTTP reason phrase of whatever answers as the control server is escaped."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 500 no\x1b[2J\x07\xe2\x80\xaeway\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        tailnet = Tailnet(
            hostname="n", control_url=f"http://127.0.0.1:{port}", ephemeral=True, **ONCE
        )
        try:
            message = said(tailnet.up, TailnetConnectError)
        finally:
            tailnet.close()
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)
    assert r"no\x1b[2J\x07\u202eway" in message


def test_the_last_words_of_a_daemon(net: Testnet, tmp_path: Path) -> None:
    """What a managed daemon prints is escaped in the error, and in the log."""
    words = r"printf 'a\033[2J\007\r[api] all is well\342\200\256\n' >&2"
    daemon = script(tmp_path / "tailscaled", "#!/bin/sh", words, "exit 1")
    tailnet = net.tailnet("n", **HOW, tailscaled_path=daemon, **ONCE)
    try:
        message = said(tailnet.up, TailnetNotRunning)
    finally:
        tailnet.close()
    assert r"a\x1b[2J\x07\r[api] all is well\u202e" in message


@pytest.mark.parametrize("address", [HOSTILE, f"{HOSTILE}:80", f"{HOSTILE}:http", "x" * 10_000])
def test_addresses_that_are_given(server: TailnetHandle, address: str) -> None:
    """What a program was given as an address, maybe by its users, is escaped in errors, too."""
    for call in (server.dial, server.listen, server.whois):
        said(lambda: call(address), TailnetError)  # noqa: B023
    said(lambda: server.dial((address, 80)), TailnetError)


def test_names_in_a_configuration(tmp_path: Path) -> None:
    """A field's name in a file is escaped and cut."""
    path = tmp_path / "c.json"
    path.write_text(
        '{"tailnet": {"a\\u001b[2J\\r\\n\\u202e": 1, "' + "b" * 10_000 + '": 1}}', "utf-8"
    )
    message = said(lambda: TailnetConfig.from_file(path), TailnetConfigError)
    assert r"a\x1b[2J\r\n\u202e: unknown setting" in message
