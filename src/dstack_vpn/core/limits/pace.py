"""How fast each source, and all of a kind together, may ask.

A source that asks too fast is answered later, and so can't ask again sooner; one that has too much waiting is
refused. Sources of a kind share a lane. The first few requests of each source have a lane of their own
besides, so a few sources that fill the common lane leave the others' slow questions alone.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.limits.shares import Kind, Source

SOURCES: Final = 4096
"""Sources that are remembered."""


@dataclass(slots=True)
class Bucket:
    """Lets ``rate`` through a second, after a burst of ``burst``."""

    rate: float
    burst: float
    _free_at: float = 0.0
    """When it would be full again, in monotonic seconds."""

    def take(self, now: float, longest: float) -> float | None:
        """Seconds to wait for one's turn; None, and nothing is taken, if that is longer than ``longest``."""
        step = 1 / self.rate
        free_at = max(self._free_at, now) + step
        wait = max(free_at - now - self.burst * step, 0.0)
        if wait > longest:
            return None
        self._free_at = free_at
        return wait


@dataclass(frozen=True, slots=True)
class Pace:
    """The bounds. Rates are a second."""

    rate: float = 200.0
    """Requests of one source."""
    burst: float = 40.0
    """Requests of one source that may come at once."""
    rate_of_kind: float = 1000.0
    """Requests of all sources of a kind."""
    burst_of_kind: float = 80.0
    longest: float = 1.0
    """Seconds for which a request may be held back."""
    slow: float = 10.0
    """Requests of one source that have the lane of their own..."""
    slow_burst: float = 20.0
    slow_part: float = 0.3
    """...which is this part of a kind's rate and burst."""


@dataclass(slots=True)
class _Turns:
    """What one source has asked for."""

    all: Bucket
    slow: Bucket


@dataclass(slots=True)
class Limiter:
    """Holds each source to a pace."""

    pace: Pace = field(default_factory=Pace)
    _lanes: dict[Kind, tuple[Bucket, Bucket]] = field(init=False)
    """The common one, and the one of slow questions."""
    _sources: OrderedDict[Source, _Turns] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self._lanes = {
            kind: (self._lane(1 - self.pace.slow_part), self._lane(self.pace.slow_part)) for kind in Kind
        }

    def take(self, source: Source, now: float, *, shared: bool = True) -> float | None:
        """Seconds to wait before answering; None: refuse. ``now`` in monotonic seconds.

        What is not ``shared`` is bounded by source alone: nobody else can use it up for a health check.
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
