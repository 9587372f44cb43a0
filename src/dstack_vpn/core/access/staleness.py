"""The age limit of the registry's last confirmed state, and the policy beyond it.

Two clocks, for two questions. While the daemon runs, age is counted on the monotonic clock, so that
setting the clock cannot make old members look fresh, or fresh ones old. Over a restart only the
wall clock is left: what the state directory holds is as old as the time since it was last
confirmed, or of unknown age if that time is in the future.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

AHEAD: Final = 60.0
"""Seconds that a stored time may be ahead of the clock, which may have been set since."""


class StalePolicy(StrEnum):
    """The policy for the last known members when they are too old."""

    KEEP = "keep"
    ISOLATE = "isolate"


@dataclass(slots=True)
class Staleness:
    """The age of the last confirmation."""

    limit: float
    """Seconds."""
    policy: StalePolicy = StalePolicy.KEEP
    since: float | None = None
    """Monotonic seconds of the last confirmation; None: there was none that counts."""

    def confirmed(self, now: float) -> None:
        """Record that the chain confirmed the registry at ``now`` (monotonic seconds)."""
        self.since = now

    def restored(self, synced: float | None, wall: float, now: float) -> str | None:
        """Start from a stored confirmation at ``synced``; returns a reason if it is too old.

        ``synced`` and ``wall`` are in Unix seconds, ``now`` is in monotonic seconds.
        """
        if synced is None:
            return "the state directory does not say when it was last confirmed"
        age = wall - synced
        if age < -AHEAD:
            return f"the state directory was last confirmed {-age:.0f} s from now, by this machine's clock"
        if age > self.limit:
            return f"the state directory was last confirmed {age:.0f} s ago, longer than MAX_STALENESS"
        self.since = now - max(age, 0.0)
        return None

    def age(self, now: float) -> float | None:
        """Return the seconds since the last confirmation."""
        return None if self.since is None else now - self.since

    def isolates(self, now: float) -> bool:
        """Return whether the members must be removed now."""
        age = self.age(now)
        return self.policy is StalePolicy.ISOLATE and age is not None and age > self.limit
