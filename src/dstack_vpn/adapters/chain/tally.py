"""What RPC calls have cost, by endpoint and method."""

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from dstack_vpn.core.histogram import Histogram

LATENCIES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds."""


@dataclass(slots=True)
class MethodStats:
    """What one RPC method cost so far."""

    errors: int = 0
    latencies: Histogram = field(default_factory=lambda: Histogram(LATENCIES))
    """Seconds; a batch's latency is counted once for each of its calls."""

    @property
    def count(self) -> int:
        """Calls, the failed ones included."""
        return sum(self.latencies.counts)


Calls: TypeAlias = dict[str, MethodStats]
"""By method."""
