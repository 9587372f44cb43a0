"""Which of several upstreams a relay should use.

The upstreams are in order of preference. Each is one of

    well        nothing speaks against it
    recovering  it failed, and answers again, but not for long enough to be trusted
    down        it failed lately, and is left alone until its pause is over

and, besides, slow or not: its round trips have been much longer than another's for a while.

    well --failed--> down --pause over, connected--> recovering --WELL seconds--> well
                      ^----------failed (twice the pause)-----------'

`order` is for new connections: those that are well first, but one that is down comes before none. `better` is
for connections that stand: a move is worth it only to one that is well, so nothing flaps. Pauses come with
jitter, given by the caller, so that thousands of relays don't come back at the same moment.

Times are monotonic seconds, round trips seconds.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

WELL: Final = 60.0
"""Seconds after which one that failed is trusted again."""
PERSISTENT: Final = 60.0
"""Seconds for which it must have been slower to count as slow."""
PAUSE: Final = 0.5
"""Seconds that an upstream is left alone after its first failure; twice as long each time..."""
PAUSE_STALLED: Final = 30.0
"""...and after it took connections but did not carry, which no connection attempt can find out..."""
PAUSE_LIMIT: Final = 60.0
PAUSE_STALLED_LIMIT: Final = 900.0
"""...but no longer than this."""
PROBE: Final = 10.0
"""Seconds between looks at an upstream that is not in use."""
_SLOWER: Final = (2.0, 0.020)
"""Slower means: more than so many times as long, and so many seconds longer."""
_SMOOTHING: Final = 0.125
"""A new measurement's weight (RFC 6298, 2.3)."""


@dataclass(slots=True)
class _Upstream:
    failures: int = 0
    down_until: float = 0.0
    """0: it is not down."""
    well_since: float | None = None
    """Since when it has been answering after a failure; None: it has not failed, or not answered since."""
    trusted: bool = True
    rtt: float | None = None
    slow_since: float | None = None
    probe_at: float = 0.0


@dataclass(slots=True)
class Failover:
    """The upstreams' health, by their index."""

    count: int
    _all: list[_Upstream] = field(init=False)

    def __post_init__(self) -> None:
        self._all = [_Upstream() for _ in range(self.count)]

    def order(self, now: float) -> list[int]:
        """Whom to connect to, best first; those that are down last, by when their pause ends."""
        return sorted(range(self.count), key=lambda index: self._rank(index, now))

    def available(self, index: int, now: float) -> bool:
        """Whether its pause is over, if it has one."""
        return self._all[index].down_until <= now

    def better(self, index: int, now: float) -> int | None:
        """Where a connection to ``index`` should move to; None: it is well placed."""
        best = self.order(now)[0]
        return best if best != index and self._trusted(best, now) else None

    def probes(self, now: float, in_use: Collection[int], jitter: float) -> list[int]:
        """Which upstreams to have a look at now; each is asked for once in `PROBE` seconds.

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

    # -- what happens ---------------------------------------------------------------------------------

    def answered(self, index: int, now: float, rtt: float | None) -> None:
        """It took a connection, or carries one well."""
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
        """It refused, died, or (``stalled``) took what it was sent and never answered.

        ``jitter`` is from 0 to 1.
        """
        upstream = self._all[index]
        base, limit = (PAUSE_STALLED, PAUSE_STALLED_LIMIT) if stalled else (PAUSE, PAUSE_LIMIT)
        pause = min(base * 2.0 ** min(upstream.failures, 20), limit) * (0.5 + jitter / 2)
        upstream.failures += 1
        upstream.down_until = max(upstream.down_until, now + pause)
        upstream.trusted, upstream.well_since = False, None

    # -- judgement ------------------------------------------------------------------------------------

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
        """Note which upstreams have become much slower than the fastest, or no longer are."""
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
