"""The choice of a relay's upstream among several.

The upstreams are in order of preference. Each has one of these states:

    well        it has no unforgiven failure
    recovering  it failed, and answers again, but not for long enough to be trusted
    down        it failed recently, and is not used until its pause is over

It may also be slow: its round trips have been much longer than another's for a while.

    well --failed--> down --pause over, connected--> recovering --WELL seconds--> well
                      ^----------failed (twice the pause)-----------'

`order` is for new connections: those that are well come first, those that are down last, but they
are included. `better` is for established connections: they move only to an upstream that is well,
so nothing flaps. Pauses have jitter, given by the caller, so that thousands of relays don't
reconnect at the same moment.

Times are monotonic seconds, round trips seconds.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

WELL: Final = 60.0
"""Seconds of answers after which an upstream that failed is trusted again."""
PERSISTENT: Final = 60.0
"""Seconds for which an upstream must have been slower to count as slow."""
PAUSE: Final = 0.5
"""Seconds of pause after an upstream's first failure; twice as long each time..."""
PAUSE_STALLED: Final = 30.0
"""...and after it accepted connections but carried no data, which a connection can't detect..."""
PAUSE_LIMIT: Final = 60.0
PAUSE_STALLED_LIMIT: Final = 900.0
"""...but no longer than this."""
PROBE: Final = 10.0
"""Seconds between probes of an upstream that is not in use."""
_SLOWER: Final = (2.0, 0.020)
"""The factor and the seconds by which a round trip must exceed the fastest to be slower."""
_SMOOTHING: Final = 0.125
"""The weight of a new measurement (RFC 6298, 2.3)."""


@dataclass(slots=True)
class _Upstream:
    failures: int = 0
    down_until: float = 0.0
    """Monotonic seconds; 0: it is not down."""
    well_since: float | None = None
    """The time of its first answer after a failure; None: no failure, or no answer since."""
    trusted: bool = True
    rtt: float | None = None
    slow_since: float | None = None
    probe_at: float = 0.0


@dataclass(slots=True)
class Failover:
    """The health of the upstreams, by index."""

    count: int
    _all: list[_Upstream] = field(init=False)

    def __post_init__(self) -> None:
        self._all = [_Upstream() for _ in range(self.count)]

    def order(self, now: float) -> list[int]:
        """Return the upstreams, best first; those that are down last, by the end of their pause."""
        return sorted(range(self.count), key=lambda index: self._rank(index, now))

    def available(self, index: int, now: float) -> bool:
        """Return whether an upstream has no pause, or its pause is over."""
        return self._all[index].down_until <= now

    def better(self, index: int, now: float) -> int | None:
        """Return the upstream to which a connection to ``index`` should move; None: stay."""
        best = self.order(now)[0]
        return best if best != index and self._trusted(best, now) else None

    def probes(self, now: float, in_use: Collection[int], jitter: float) -> list[int]:
        """Return the upstreams to probe now; each is returned about once in `PROBE` seconds.

        ``jitter`` is from 0 to 1.
        """
        due = [
            index
            for index, upstream in enumerate(self._all)
            if index not in in_use and max(upstream.probe_at, upstream.down_until) <= now
        ]
        for index in due:
            self._all[index].probe_at = now + PROBE * (0.75 + jitter / 2)
        return due

    # -- events ------------------------------------------------------------------------------------

    def answered(self, index: int, now: float, rtt: float | None) -> None:
        """Record that an upstream accepted a connection or carries one; ``rtt`` in seconds."""
        upstream = self._all[index]
        upstream.down_until = 0.0
        if not upstream.trusted and upstream.well_since is None:
            upstream.well_since = now
        if self._trusted(index, now):
            upstream.trusted, upstream.well_since, upstream.failures = True, None, 0
        if rtt is not None:
            old = upstream.rtt
            upstream.rtt = rtt if old is None else old + _SMOOTHING * (rtt - old)
            self._compare(now)

    def failed(self, index: int, now: float, jitter: float, *, stalled: bool = False) -> None:
        """Record that an upstream refused, died, or (``stalled``) accepted data and never answered.

        ``jitter`` is from 0 to 1.
        """
        upstream = self._all[index]
        base, limit = (PAUSE_STALLED, PAUSE_STALLED_LIMIT) if stalled else (PAUSE, PAUSE_LIMIT)
        pause = min(base * 2.0 ** min(upstream.failures, 20), limit) * (0.5 + jitter / 2)
        upstream.failures += 1
        upstream.down_until = max(upstream.down_until, now + pause)
        upstream.trusted, upstream.well_since = False, None

    # -- ranking -----------------------------------------------------------------------------------

    def _trusted(self, index: int, now: float) -> bool:
        upstream = self._all[index]
        if upstream.down_until > now:
            return False
        since = upstream.well_since
        return upstream.trusted or (since is not None and now - since >= WELL)

    def _rank(self, index: int, now: float) -> tuple[float, bool, bool, int]:
        upstream = self._all[index]
        down = upstream.down_until if upstream.down_until > now else 0.0
        slow = upstream.slow_since is not None and now - upstream.slow_since >= PERSISTENT
        return down, not self._trusted(index, now), slow, index

    def _compare(self, now: float) -> None:
        """Record which upstreams are now much slower than the fastest, and which no longer are."""
        known = [
            upstream.rtt for upstream in self._all if upstream.rtt is not None and not upstream.down_until
        ]
        if not known:
            return
        factor, margin = _SLOWER
        limit = min(known) * factor + margin
        for upstream in self._all:
            if upstream.rtt is None or upstream.rtt <= limit:
                upstream.slow_since = None
            elif upstream.slow_since is None:
                upstream.slow_since = now
