"""A limit on the part of time spent on work whose cost is known only afterwards."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimeShare:
    """At most one part in ``parts`` of the time, and at most once in ``least`` seconds."""

    parts: int
    least: float = 0.0

    def pause(self, took: float) -> float:
        """Return the seconds until the next run, if this run took ``took`` seconds."""
        return max(self.least, self.parts * took)
