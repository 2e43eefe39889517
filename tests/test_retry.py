"""When to try again: the delays, and what may change them."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from tailnet import RetryPolicy, TailnetConfigError


class Extreme(random.Random):
    """Draws the least (0) or the greatest (1) number that can come."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self.end = end

    def uniform(self, a: float, b: float) -> float:
        """Return one end of the range."""
        return (a, b)[self.end]


@pytest.mark.parametrize(("end", "part"), [(0, 0.8), (1, 1.2)])
def test_delays_double(end: int, part: float) -> None:
    """By default there are five retries, after 1, 2, 4, 8 and 16 s, give or take 20 percent."""
    policy = RetryPolicy()
    delays = [policy.delay(retry, rng=Extreme(end)) for retry in range(1, policy.retries + 1)]
    assert delays == pytest.approx([part * seconds for seconds in (1, 2, 4, 8, 16)])


def test_delays_differ() -> None:
    """Two nodes do not come back in step: delays are spread over the whole range."""
    delays = [RetryPolicy().delay(3) for _ in range(1000)]
    assert 3.2 <= min(delays) < 3.4
    assert 4.6 < max(delays) <= 4.8


def test_own_policy() -> None:
    """The first delay, the factor, the greatest delay and the jitter are the policy's."""
    policy = RetryPolicy(first_delay=0.5, factor=3, max_delay=10, jitter=0)
    assert [policy.delay(retry) for retry in range(1, 6)] == [0.5, 1.5, 4.5, 10, 10]
    assert RetryPolicy(first_delay=0).delay(5) == 0


@pytest.mark.parametrize(("asked", "delay"), [(None, 4.0), (0.0, 4.0), (3.0, 4.0), (90.0, 90.0)])
def test_server_is_never_waited_for_less_than_it_asks(asked: float | None, delay: float) -> None:
    """Retry-After makes a delay longer, even beyond max_delay, and never shorter."""
    assert RetryPolicy(jitter=0).delay(3, retry_after=asked) == delay


@pytest.mark.parametrize(("end", "delay"), [(0, 90.0), (1, 108.0)])
def test_jitter_never_shortens_what_the_server_asks(end: int, delay: float) -> None:
    """Those who were told the same number of seconds come back after it, and not all at once."""
    assert RetryPolicy().delay(1, retry_after=90, rng=Extreme(end)) == pytest.approx(delay)


@pytest.mark.parametrize(
    ("asked", "delay"),
    [
        (300.0, 300.0),
        (301.0, 300.0),
        (3600.0 * 999999, 300.0),
        (math.inf, 4.0),
        (-math.inf, 4.0),
        (math.nan, 4.0),
        (-5.0, 4.0),
    ],
)
def test_a_server_cannot_ask_for_any_delay(asked: float, delay: float) -> None:
    """A Retry-After counts up to max_retry_after, and not at all where it is no finite number."""
    assert RetryPolicy(jitter=0).delay(3, retry_after=asked) == delay


def test_the_bound_of_what_a_server_may_ask_is_the_policys() -> None:
    """max_retry_after=0 leaves every delay to the policy."""
    assert RetryPolicy(jitter=0, max_retry_after=0).delay(3, retry_after=90) == 4
    assert RetryPolicy(jitter=0, max_retry_after=90).delay(3, retry_after=1e9) == 90


@pytest.mark.parametrize("factor", [2, 16])
@pytest.mark.parametrize("retry", [100, 1000, 2000, 10**400])
def test_any_number_of_retries(retry: int, factor: int) -> None:
    """The thousandth retry comes after max_delay, or none at all, and not to an overflow."""
    assert RetryPolicy(jitter=0, factor=factor).delay(retry) == 60
    assert RetryPolicy(first_delay=0, factor=factor).delay(retry) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("retries", -1),
        ("retries", 1.5),
        ("first_delay", -1),
        ("first_delay", float("inf")),
        ("factor", 0.9),
        ("factor", float("nan")),
        ("max_delay", -1),
        ("max_delay", float("inf")),
        ("jitter", -0.1),
        ("jitter", 1.1),
        ("jitter", float("nan")),
        ("max_retry_after", -1),
        ("max_retry_after", float("inf")),
        ("max_retry_after", float("nan")),
        ("attempts", 5),
    ],
)
def test_bad_value_is_refused(field: str, value: Any) -> None:
    """A value that gives no sensible delay is a TailnetConfigError that names the field."""
    with pytest.raises(TailnetConfigError, match=f"^{field}: "):
        RetryPolicy(**{field: value})


def test_policy_is_immutable() -> None:
    """No field can be set or deleted afterwards, and what was to be set is not shown."""
    policy = RetryPolicy()
    field, value = "retries", "tskey-secret"
    with pytest.raises(TailnetConfigError, match=r"^retries: .* frozen") as caught:
        setattr(policy, field, value)
    assert value not in str(caught.value)
    with pytest.raises(TailnetConfigError, match=r"^retries: .* frozen"):
        delattr(policy, field)
    assert policy == RetryPolicy()
