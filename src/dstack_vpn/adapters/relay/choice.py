"""The choice among a udp2tcp's upstreams (`core.paths.failover`), and the reasons of failures.

An upstream is *barren* if its connections end without having carried a frame: a gateway whose
backend is away, another protocol, a limit. A connection to such an upstream proves nothing, so only
a frame from it ends that state. Each state is logged once, regardless of the number of attempts.
"""

import random
from collections.abc import Collection, Sequence
from typing import Final

import structlog

from dstack_vpn.core.paths.failover import Failover
from dstack_vpn.core.paths.relay_url import RelayUrl

_log = structlog.get_logger(component="relay")
_chance: Final = random.SystemRandom().random


class Choice:
    """Rates upstreams by the outcome of connections to them. Times are the event loop's."""

    def __init__(self, upstreams: Sequence[RelayUrl]) -> None:
        self.upstreams = tuple(upstreams)
        self.unreachable: str | None = None
        """The reason that the last attempt reached no relay; None if it reached one."""
        self._health = Failover(len(self.upstreams))
        self._barren: dict[RelayUrl, str] = {}

    def order(self, now: float) -> list[RelayUrl]:
        """Return the upstreams to connect to now, best first."""
        order = self._health.order(now)
        usable = [index for index in order if self._health.available(index, now)] or order
        return [self.upstreams[index] for index in usable]

    def better(self, upstream: RelayUrl, now: float) -> RelayUrl | None:
        """Return the upstream to move to from ``upstream``; None if it should stay in use."""
        if upstream not in self.upstreams:
            return self.upstreams[self._health.order(now)[0]]
        index = self._health.better(self.upstreams.index(upstream), now)
        return None if index is None else self.upstreams[index]

    def probes(self, now: float, used: Collection[RelayUrl]) -> list[RelayUrl]:
        """Return the upstreams to probe now."""
        busy = {self.upstreams.index(upstream) for upstream in used if upstream in self.upstreams}
        return [self.upstreams[index] for index in self._health.probes(now, busy, _chance())]

    # -- outcomes ----------------------------------------------------------------------------------

    def connected(self, upstream: RelayUrl, now: float, rtt: float | None) -> None:
        """Record that an upstream accepted a connection; ``rtt`` is in seconds."""
        if upstream not in self._barren:
            self.measured(upstream, now, rtt)

    def measured(self, upstream: RelayUrl, now: float, rtt: float | None) -> None:
        """Record that an upstream carries frames; ``rtt`` is in seconds."""
        if upstream in self.upstreams:
            self._health.answered(self.upstreams.index(upstream), now, rtt)

    def failed(self, upstream: RelayUrl, now: float, *, stalled: bool = False) -> None:
        """Record that an upstream refused or ended a connection, or (``stalled``) did not carry."""
        if upstream in self.upstreams:
            self._health.failed(self.upstreams.index(upstream), now, _chance(), stalled=stalled)

    def carried_nothing(self, upstream: RelayUrl, now: float, reason: str) -> None:
        """Record that a connection ended without having carried a frame."""
        self.failed(upstream, now, stalled=True)
        if self._barren.get(upstream) != reason:
            self._barren[upstream] = reason
            _log.warning("relay.carried_nothing", upstream=upstream.name, problem=reason)

    def note_received(self, upstream: RelayUrl, now: float) -> None:
        """Record that a frame arrived from an upstream."""
        if self._barren.pop(upstream, None) is not None:
            _log.info("relay.carries", upstream=upstream.name)
            self.measured(upstream, now, None)

    def problem(self, used: Collection[RelayUrl]) -> str | None:
        """Return the reason that the used upstreams, or all, carry nothing; None if one may."""
        if not used and (self.unreachable is not None or not self._barren):
            return self.unreachable or "no upstream can be reached"
        barren = [each for each in used or self._barren if each in self._barren]
        return f"{barren[0].name}: {self._barren[barren[0]]}" if barren else None
