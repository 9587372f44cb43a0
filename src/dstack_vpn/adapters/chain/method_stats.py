"""Statistics of RPC calls, by endpoint and method."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final, TypeAlias

WAITING: Final = 4096
"""The limit of durations kept for the next scrape. Without scrapes the oldest are dropped."""


@dataclass(slots=True)
class MethodStats:
    """The statistics of one RPC method."""

    count: int = 0
    """The number of calls, including failed ones."""
    errors: int = 0
    durations: deque[float] = field(default_factory=lambda: deque(maxlen=WAITING))
    """Durations in seconds that no histogram contains yet. Each call of a batch has the batch's
    duration."""

    def add(self, seconds: float, *, failed: bool) -> None:
        """Count a call."""
        self.count += 1
        self.errors += failed
        self.durations.append(seconds)


Calls: TypeAlias = dict[str, MethodStats]
"""Statistics by method."""
