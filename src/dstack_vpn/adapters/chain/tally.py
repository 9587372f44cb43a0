"""The cost of RPC calls, by endpoint and method."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final, TypeAlias

WAITING: Final = 4096
"""Durations that wait for the next scrape; without scrapes the oldest are dropped."""


@dataclass(slots=True)
class MethodStats:
    """The cost of one RPC method."""

    count: int = 0
    """Calls, the failed ones included."""
    errors: int = 0
    durations: deque[float] = field(default_factory=lambda: deque(maxlen=WAITING))
    """Seconds of the calls that no histogram has taken; a batch's duration is there for each of its calls."""

    def add(self, seconds: float, *, failed: bool) -> None:
        """Count a call."""
        self.count += 1
        self.errors += failed
        self.durations.append(seconds)


Calls: TypeAlias = dict[str, MethodStats]
"""By method."""
