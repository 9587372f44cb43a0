"""Counting observations into buckets, as Prometheus' histograms have them."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate


@dataclass(slots=True)
class Histogram:
    """Observations by their upper bound (inclusive, rising); what is above the last bound is counted, too."""

    bounds: Sequence[float]
    total: float = 0.0
    """The sum of what was observed."""
    counts: list[int] = field(init=False)
    """For each bound, and above the last."""

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one more."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def cumulative(self) -> list[tuple[str, float]]:
        """Each bound's text and how many were not above it, the last for ``+Inf``."""
        texts = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        return list(zip(texts, map(float, accumulate(self.counts)), strict=True))
