"""The decision whether a silent endpoint is dead or its chain is idle.

A subscription can end without notice while the connection stays open. So silence is measured
against the block interval (the configured block time, else the median interval seen). After a few
missing blocks the endpoint's latest block is queried:

    newer than announced    the subscription is dead (unless the announcement is under way)
    the same                the chain is idle: continue, except if the configured block time rules
                            that out, because then the endpoint has stopped following its chain

Pure: times are arguments, in seconds of one monotonic clock.
"""

from collections import deque
from statistics import median
from typing import Final

from dstack_vpn.core.model import BlockRef

_MISSING_BLOCKS: Final = 4
_SHORTEST: Final = 2.0
_LONGEST: Final = 30.0
_UNKNOWN: Final = 10.0
"""Seconds before the first probe while no block interval is known."""
_STALLED_BLOCKS: Final = 20
_STALLED_SECONDS: Final = 10.0
_INTERVALS: Final = 16

GRACE: Final = 5.5
"""Seconds that an announcement may take longer than the reply to a probe: a load balancer may serve
the subscription by a backend that lags by 5 s."""


class HeadWatch:
    """Tracks the interval of heads."""

    def __init__(self, block_time: float | None, now: float) -> None:
        self._block_time = block_time
        self._intervals: deque[float] = deque(maxlen=_INTERVALS)
        self.last: BlockRef | None = None
        """The last head."""
        self._last_head = now
        self._last_sign = now
        self._idle_probes = 0

    @property
    def silence(self) -> float:
        """Seconds without a head after which the endpoint is probed."""
        if self._block_time is not None:
            return min(max(self._block_time * _MISSING_BLOCKS, _SHORTEST), _LONGEST)
        learned = median(self._intervals) * _MISSING_BLOCKS if self._intervals else _UNKNOWN
        # An idle development chain is probed less often each time.
        return min(max(learned, _SHORTEST) * 2.0**self._idle_probes, _LONGEST)

    def wait(self, now: float) -> float:
        """Return the seconds until the next probe is due."""
        return max(0.0, self._last_sign + self.silence - now)

    def head(self, block: BlockRef, now: float) -> None:
        """Record a head."""
        if self.last is not None:
            self._intervals.append(now - self._last_head)
        self.last = block
        self._last_head = self._last_sign = now
        self._idle_probes = 0

    def is_newer(self, latest: BlockRef) -> bool:
        """Return True if a block is higher than the last head."""
        return self.last is None or latest.number > self.last.number

    def is_other(self, latest: BlockRef) -> bool:
        """Return True if a block is not the last head."""
        return self.last is None or latest.hash != self.last.hash

    def is_lower(self, latest: BlockRef) -> bool:
        """Return True if a block is lower than the last head (lagging backend, shorter chain)."""
        return self.last is not None and latest.number < self.last.number

    def idle(self, now: float) -> None:
        """Record a probe that found no newer block."""
        self._last_sign = now
        self._idle_probes = min(self._idle_probes + 1, 8)

    def is_stalled(self, now: float) -> bool:
        """Return True if the configured block time rules out an idle period this long."""
        if self._block_time is None:
            return False
        return now - self._last_head > max(_STALLED_SECONDS, _STALLED_BLOCKS * self._block_time)
