"""Counts what happens, from the one stream that tells of it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.happenings import KINDS, Entry, PeerRemoved, PeerSet
from dstack_vpn.core.histogram import Histogram

LATENCIES: Final = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
    10.0,
)
"""Seconds."""


@dataclass(slots=True)
class Tally:
    """Sums since the start."""

    kinds: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(KINDS, 0)))
    latencies: Histogram = field(default_factory=lambda: Histogram(LATENCIES))
    """From an event's arrival to the device's acknowledgement, for each peer that was told one by one."""

    def take(self, entry: Entry) -> None:
        """Count one more."""
        self.kinds[entry.what.kind] += 1
        if isinstance(entry.what, PeerSet | PeerRemoved) and entry.what.latency is not None:
            self.latencies.observe(entry.what.latency)
