"""A thread of a test that nobody wakes fails that test, and the run goes on and ends."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support import threads

ROOT = Path(__file__).parent.parent


def test_a_hang_is_a_failure(pytester: pytest.Pytester) -> None:
    """It fails by name and with the stack of the thread, also after pytest's timeout has fired."""
    pytester.makepyfile(
        f"""
        import socket, sys
        sys.path.insert(0, {str(ROOT)!r})
        from tests.support import threads
        threads.LIMIT = 0.5

        def test_pool():
            listener = socket.create_server(("127.0.0.1", 0))
            with threads.Pool(1) as pool:
                pool.submit(listener.accept)

        def test_timeout():
            listener = socket.create_server(("127.0.0.1", 0))
            with threads.Pool(1) as pool:
                pool.submit(listener.accept).result()

        def test_thread():
            ours, _ = socket.socketpair()
            threads.finished(threads.started(ours.recv, 1))

        def test_next():
            pass
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:randomly", "--timeout=2", timeout=60)
    result.assert_outcomes(failed=3, passed=1)
    result.stdout.fnmatch_lines(["*1 threads hang*", "*fd, addr = self._accept()*"])
    result.stdout.fnmatch_lines(["*Timeout (>2.0s) from pytest-timeout*"])


def test_a_pool_is_a_pool() -> None:
    """Results and exceptions come back, and no more threads run than were asked for."""
    with threads.Pool(2) as pool:
        assert list(pool.map(abs, range(-100, 0))) == [*range(100, 0, -1)]
        assert len(pool.threads) == 2
        assert isinstance(pool.submit(socket.socket, "x").exception(10), TypeError)
