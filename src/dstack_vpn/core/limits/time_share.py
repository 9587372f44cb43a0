"""Spending a bounded part of the time on something whose cost is only known afterwards."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimeShare:
    """At most one part in ``parts`` of the time, and not more often than every ``least`` seconds."""

    parts: int
    least: float = 0.0

    def pause(self, took: float) -> float:
        """Return the seconds until the next time, if this time took so many seconds."""
        return max(self.least, self.parts * took)
