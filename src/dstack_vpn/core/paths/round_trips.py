"""Round trips through the tunnel: the next measurements, smoothed values, and missing replies.

A measurement is an ICMP echo to a peer's tunnel address. The caller sends it and reports the reply,
or asks for overdue ones by `expire`. Only the peers that the caller wants are measured.

    first reply after a pause    a sign of life, and no value: it may include a handshake
    further replies              smoothed as RFC 6298 does (section 2)
    `LOST` missing replies       the peer is silent, if it has replied before and no byte came in

Two peers at nearly the same distance must not change places all the time. Therefore each has a
settled value beside the smoothed one, and peers are ordered by it. It follows the smoothed value
only if both differ by a quarter and by a millisecond.

Times are monotonic seconds, and round trips are seconds.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Final

from dstack_vpn.core.wireguard.keys import PublicKey

OFTEN: Final = 0.4
"""Seconds between measurements of a peer that must be found silent soon."""
INTERVAL: Final = 1.5
"""Seconds between measurements of a peer that answers of now depend on."""
SWEEP: Final = 60.0
"""Seconds between measurements of other wanted peers."""
WARM: Final = 0.25
"""Seconds from the first reply after a pause to the next measurement."""
PAUSE: Final = 10.0
"""Seconds without a measurement after which the results before do not show that a peer is alive."""
KEPT: Final = 300.0
"""Seconds after which a value is not shown any more."""
LOST: Final = 3
"""Missing replies, one after the other, of a silent peer."""
WAIT: Final = 0.5
"""Seconds at least for a reply, unless the interval between measurements is shorter."""
FIRST_WAIT: Final = 1.0
"""Seconds for a reply of a peer without a value (RFC 6298, section 2.1)."""
LONGEST_WAIT: Final = 2.0
"""Seconds at most for a reply."""
_SHARE, _LEAST = 0.25, 0.001
_ALPHA, _BETA = 1 / 8, 1 / 4
"""RFC 6298, section 2.3."""


@dataclass(slots=True)
class _Trip:
    smoothed: float | None = None
    variation: float = 0.0
    settled: float | None = None
    measured: float = -math.inf
    """The time of the last value."""
    replies: bool = False
    """The peer replies to echoes, so that a missing reply means something."""
    warm: bool = False
    """A reply has come since the last pause."""
    missing: int = 0
    received: int = 0
    """The bytes from the peer at the last missing reply."""
    came: int = 0
    """How often the count of bytes has grown while the peer was silent."""
    sent: float = -math.inf
    waits: bool = False
    least: float = WAIT
    """Seconds at least for a reply to the last echo."""
    due: float = -math.inf

    @property
    def patience(self) -> float:
        """Return the seconds for a reply."""
        if self.smoothed is None:
            return FIRST_WAIT
        return min(max(self.smoothed + 4 * self.variation, self.least), LONGEST_WAIT)

    def sample(self, seconds: float, now: float) -> None:
        """Add a measured round trip."""
        if self.smoothed is None:
            self.smoothed, self.variation = seconds, seconds / 2
        else:
            self.variation += _BETA * (abs(self.smoothed - seconds) - self.variation)
            self.smoothed += _ALPHA * (seconds - self.smoothed)
        self.measured = now
        settled = self.settled
        if settled is None or abs(self.smoothed - settled) > max(_SHARE * settled, _LEAST):
            self.settled = self.smoothed


@dataclass(slots=True)
class RoundTrips:
    """The round trips of the peers that were measured lately."""

    _trips: dict[PublicKey, _Trip] = field(default_factory=dict)

    def due(self, wanted: Mapping[PublicKey, float], now: float, most: int) -> list[PublicKey]:
        """Return the peers to measure now: those with the shortest interval first.

        ``wanted`` has the seconds between measurements of each peer.
        """
        found = []
        for key, interval in wanted.items():
            trip = self._trips.get(key)
            due = -math.inf if trip is None else trip.due
            if due <= now and not (trip is not None and trip.waits):
                found.append((interval, due, key))
        return [key for _, _, key in nsmallest(most, found, key=lambda each: each[:2])]

    def sent(self, key: PublicKey, interval: float, now: float, draw: float) -> None:
        """Record that an echo was sent; ``draw``, from 0 to 1, varies the time of the next one."""
        trip = self._trips.setdefault(key, _Trip())
        if now - trip.sent > PAUSE:
            trip.warm = False
            trip.missing = 0 if trip.replies else trip.missing
        pause = interval * (0.75 + draw / 2)
        if not trip.replies and trip.missing >= LOST:
            pause = min(pause * 2.0 ** min(trip.missing - LOST + 1, 10), max(SWEEP, interval))
        trip.sent, trip.waits, trip.due = now, True, now + pause
        trip.least = min(WAIT, interval)

    def replied(self, key: PublicKey, seconds: float, now: float) -> None:
        """Record a reply."""
        trip = self._trips.get(key)
        if trip is None:
            return
        trip.waits, trip.missing, trip.replies = False, 0, True
        if trip.warm:
            trip.sample(seconds, now)
        else:
            trip.warm, trip.due = True, now + WARM

    def expire(self, now: float, received: Callable[[PublicKey], int]) -> None:
        """Count the replies that are overdue.

        ``received`` returns the bytes from a peer: while they come in, it is alive.
        """
        for key, trip in list(self._trips.items()):
            if trip.waits and now - trip.sent >= trip.patience:
                self._miss(trip, received(key), now)

    def is_alive(self, key: PublicKey, now: float) -> bool | None:
        """Return whether a peer replies; None if this is not known now."""
        trip = self._trips.get(key)
        if trip is None or not trip.replies or now - trip.sent > PAUSE:
            return None
        return False if trip.missing >= LOST else trip.warm or None

    def of(self, key: PublicKey, now: float) -> float | None:
        """Return the smoothed round trip; None if it was not measured lately."""
        trip = self._trips.get(key)
        return None if trip is None or now - trip.measured > KEPT else trip.smoothed

    def settled(self, key: PublicKey) -> float | None:
        """Return the round trip by which peers are ordered, or None. It may be old."""
        trip = self._trips.get(key)
        return None if trip is None else trip.settled

    def keep(self, keys: Collection[PublicKey]) -> None:
        """Forget all peers except these."""
        for key in [key for key in self._trips if key not in keys]:
            del self._trips[key]

    @staticmethod
    def _miss(trip: _Trip, received: int, now: float) -> None:
        """Count a missing reply, unless bytes came in since the one before."""
        came = trip.missing > 0 and received > trip.received
        silent = trip.missing >= LOST
        trip.came = trip.came + came if silent else 0
        if silent and trip.came > 1:
            # It was silent, and bytes come back: it does not reply to echoes any more. Bytes that
            # came before it fell silent may be counted late, but only once.
            trip.replies, trip.smoothed, trip.settled = False, None, None
        elif silent:
            trip.missing += 1
        else:
            trip.missing = 1 if came else trip.missing + 1
        trip.waits, trip.received = False, received
        if trip.replies and trip.missing < LOST:
            trip.due = now
