"""When to try again: arithmetic only. What is worth a retry is said by the error's class."""

from __future__ import annotations

import math
import random

from pydantic import Field

from ._configuration.settings import Settings

__all__ = ["RetryPolicy"]


class RetryPolicy(Settings):
    """How often, and after how long, `up()` tries again after a TailnetConnectError.

    The defaults are the specification's: 5 retries, after 1, 2, 4, 8 and 16 s, each longer or
    shorter by up to 20 %, so that many nodes do not come back in step after an outage.
    """

    retries: int = Field(default=5, ge=0, description="Attempts after the first; 0 tries once.")
    first_delay: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="Seconds.")
    factor: float = Field(default=2.0, ge=1, allow_inf_nan=False, description="Of delay to delay.")
    max_delay: float = Field(default=60.0, ge=0, allow_inf_nan=False, description="Seconds.")
    jitter: float = Field(default=0.2, ge=0, le=1, description="The part a delay may differ by.")
    max_retry_after: float = Field(
        default=300.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds: the longest delay that a server may ask for; more is cut to this.",
    )

    def delay(
        self, retry: int, *, retry_after: float | None = None, rng: random.Random | None = None
    ) -> float:
        """Return the seconds to wait before a retry.

        Args:
            retry: Its number, from 1.
            retry_after: What the server asked for, up to `max_retry_after`. The delay is never
                shorter, and is longer by the jitter: otherwise all clients that were told the same
                number would come back at the same time. A value that is no finite number of
                seconds counts as none.
            rng: Where the jitter comes from; None is Python's shared one.
        """
        try:
            delay = min(self.first_delay * self.factor ** (retry - 1), self.max_delay)
        except OverflowError:
            delay = self.max_delay if self.first_delay else 0.0
        uniform = rng.uniform if rng is not None else random.uniform
        asked = retry_after if retry_after is not None and math.isfinite(retry_after) else 0.0
        asked = min(asked, self.max_retry_after) * uniform(1, 1 + self.jitter)
        return max(delay * uniform(1 - self.jitter, 1 + self.jitter), asked)
