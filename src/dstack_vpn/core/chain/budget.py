"""The budget of RPC calls for a day (RPC_DAILY_CALLS), and the pace of resyncs under it.

Only resyncs are slowed: they look for what the node missed. Heads, pushed events, the readings that
follow an event and second readings of removals are never slowed, because a revocation may depend on
them. They may therefore use more than the budget.

A tenth of the budget is available at 00:00 UTC, and the rest evenly over the day: this is its pace.
A resync waits until the use is not above the pace, an hour at most. If resyncs were the only calls,
and an hourly one affordable, a budget would last until the day ends.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dstack_vpn.core.chain.usage_days import DAY

NEAR: Final = 0.8
"""The used part of the budget that leads to a warning."""
AT_ONCE: Final = 0.1
"""The part of the budget that is available at the start of the day."""
LONGEST: Final = 3600.0
"""The longest interval in seconds between resyncs, unless a longer one is configured."""
STALENESS_PARTS: Final = 4
"""A resync confirms the registry. There are this many in MAX_STALENESS, whatever the budget."""


class BudgetStage(StrEnum):
    """The used part of a budget."""

    WITHIN = "within"
    NEAR = "near"
    SPENT = "spent"


@dataclass(frozen=True, slots=True)
class Budget:
    """The budget for a day."""

    calls: int
    """At least 1."""
    longest: float = LONGEST
    """The longest interval in seconds between resyncs."""

    @classmethod
    def of(cls, calls: int, max_staleness: float) -> "Budget | None":
        """Return the budget of RPC_DAILY_CALLS; None for 0. ``max_staleness`` is in seconds."""
        return cls(calls, min(LONGEST, max_staleness / STALENESS_PARTS)) if calls else None

    def stage(self, used: int) -> BudgetStage:
        """Return the stage after ``used`` calls."""
        if used >= self.calls:
            return BudgetStage.SPENT
        return BudgetStage.NEAR if used >= NEAR * self.calls else BudgetStage.WITHIN

    def wait(self, used: int, now: float) -> float:
        """Return the seconds until the pace has reached ``used`` calls; infinite if it does not.

        ``now`` is in Unix seconds.
        """
        if used >= self.calls:
            return math.inf
        reached = (used / self.calls - AT_ONCE) / (1 - AT_ONCE) * DAY
        return max(reached - now % DAY, 0.0)

    def until_resync(self, passed: float, configured: float, used: int, now: float) -> float:
        """Return the seconds until the next resync, ``passed`` seconds after the last one began."""
        latest = max(configured, self.longest) - passed
        return max(configured - passed, min(self.wait(used, now), latest))
