"""Rate limits for the requests of each source, and of all sources of a kind together.

The requests of a source that asks too fast are delayed; if the delay would be too long, they are
refused. Sources of a kind share a lane. The first few requests of each source also have a lane of
their own, so that a few sources that fill the common lane do not block the others' infrequent
requests.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.limits.shares import Kind, Source

SOURCES: Final = 4096
"""Sources that are kept."""


@dataclass(slots=True)
class Bucket:
    """A token bucket: ``rate`` requests per second, after a burst of ``burst``."""

    rate: float
    burst: float
    _free_at: float = 0.0
    """The time at which it is full again, in monotonic seconds."""

    def take(self, now: float, longest: float) -> float | None:
        """Take one request and return the seconds to wait for it.

        Returns None, and takes nothing, if that is longer than ``longest``.
        """
        step = 1 / self.rate
        free_at = max(self._free_at, now) + step
        wait = max(free_at - now - self.burst * step, 0.0)
        if wait > longest:
            return None
        self._free_at = free_at
        return wait


@dataclass(frozen=True, slots=True)
class Pace:
    """The limits. Rates are per second."""

    rate: float = 200.0
    """Requests of one source."""
    burst: float = 40.0
    """The burst of one source, in requests."""
    rate_of_kind: float = 1000.0
    """Requests of all sources of a kind."""
    burst_of_kind: float = 80.0
    longest: float = 1.0
    """Seconds by which a request may be delayed."""
    slow: float = 10.0
    """Requests of one source that use the slow lane..."""
    slow_burst: float = 20.0
    slow_part: float = 0.3
    """...which has this part of a kind's rate and burst."""


@dataclass(slots=True)
class _Turns:
    """The buckets of one source."""

    all: Bucket
    slow: Bucket


@dataclass(slots=True)
class Limiter:
    """The rate limiter of all sources."""

    pace: Pace = field(default_factory=Pace)
    _lanes: dict[Kind, tuple[Bucket, Bucket]] = field(init=False)
    """The common lane, and the lane of slow requests."""
    _sources: OrderedDict[Source, _Turns] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self._lanes = {
            kind: (self._lane(1 - self.pace.slow_part), self._lane(self.pace.slow_part)) for kind in Kind
        }

    def take(self, source: Source, now: float, *, shared: bool = True) -> float | None:
        """Return the seconds to wait before the answer, or None to refuse.

        ``now`` is in monotonic seconds. A request that is not ``shared`` is limited by source only,
        so other sources cannot use up the rate of a health check.
        """
        turns, longest = self._turns(source), self.pace.longest
        wait = turns.all.take(now, longest)
        if wait is None or not shared:
            return wait
        common, slow = self._lanes[source.kind]
        is_slow = turns.slow.take(now, 0.0) is not None
        turn = common.take(now, 0.0)
        if turn is None and is_slow:
            turn = slow.take(now, longest)
        if turn is None:
            turn = common.take(now, longest)
        return None if turn is None else max(wait, turn)

    def _turns(self, source: Source) -> _Turns:
        pace = self.pace
        turns = self._sources.pop(source, None)
        if turns is None:
            turns = _Turns(Bucket(pace.rate, pace.burst), Bucket(pace.slow, pace.slow_burst))
        self._sources[source] = turns
        if len(self._sources) > SOURCES:
            self._sources.popitem(last=False)
        return turns

    def _lane(self, part: float) -> Bucket:
        return Bucket(self.pace.rate_of_kind * part, self.pace.burst_of_kind * part)
