"""Exponential backoff with full jitter; a period of good service resets it.

Full jitter (a uniform draw between zero and the exponential bound) spreads the reconnects of many
nodes when their common endpoint is available again; see "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015. The draw and the time are arguments, so all functions here are pure.
"""

from dataclasses import dataclass, replace
from typing import Final, Self

# 2.0 ** 64 times any base is past every cap; a larger exponent risks an OverflowError.
_MAX_EXPONENT: Final = 64


def full_jitter(failures: int, draw: float, *, base: float, cap: float) -> float:
    """Return the seconds to wait after failures in a row; ``draw`` is uniform in [0, 1)."""
    if failures <= 0:
        return 0.0
    bound = base * 2.0 ** min(failures - 1, _MAX_EXPONENT)
    return draw * min(cap, bound)


@dataclass(frozen=True, slots=True)
class Backoff:
    """The pause of something that fails. All times are seconds of one monotonic clock."""

    base: float = 0.2
    """The longest pause after the first failure."""
    cap: float = 15.0
    """The longest pause, unless the endpoint itself asked for more."""
    forgive_after: float = 10.0
    """Seconds of good service after which earlier failures are forgotten."""
    failures: int = 0
    ready_at: float = 0.0

    def failed(self, now: float, draw: float, *, served: float = 0.0, at_least: float = 0.0) -> Self:
        """Return the state after a failure that followed ``served`` seconds of good service.

        ``at_least`` is a pause that the other side asked for; it may exceed the cap.
        """
        failures = 1 if served >= self.forgive_after else self.failures + 1
        pause = full_jitter(failures, draw, base=self.base, cap=self.cap)
        return replace(self, failures=failures, ready_at=now + max(pause, at_least))

    def wait(self, now: float) -> float:
        """Return the seconds until it may be used again; 0 if it may be used now."""
        return max(0.0, self.ready_at - now)
