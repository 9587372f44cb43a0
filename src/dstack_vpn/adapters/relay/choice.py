"""The upstreams of a udp2tcp: which one to use (`core.paths.failover`), and why none carries.

An upstream is *barren* when its connections end without having carried anything: a gateway whose backend is
away, another protocol, a limit. A connection to such an upstream proves nothing, so only a frame from it
ends that state. Each state is logged once, however many attempts it lasts.
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
    """Judges upstreams by what connections to them do. Times are the event loop's."""

    def __init__(self, upstreams: Sequence[RelayUrl]) -> None:
        self.upstreams = tuple(upstreams)
        self.unreachable: str | None = None
        """The reason why no relay was reached at the last attempt; None: one was."""
        self._health = Failover(len(self.upstreams))
        self._barren: dict[RelayUrl, str] = {}

    def order(self, now: float) -> list[RelayUrl]:
        """Return the upstreams to connect to now, best first."""
        order = self._health.order(now)
        usable = [index for index in order if self._health.available(index, now)] or order
        return [self.upstreams[index] for index in usable]

    def better(self, upstream: RelayUrl, now: float) -> RelayUrl | None:
        """Return the upstream to move to from another one; None: stay."""
        if upstream not in self.upstreams:
            return self.upstreams[self._health.order(now)[0]]
        index = self._health.better(self.upstreams.index(upstream), now)
        return None if index is None else self.upstreams[index]

    def probes(self, now: float, used: Collection[RelayUrl]) -> list[RelayUrl]:
        """Return the upstreams to have a look at now."""
        busy = {self.upstreams.index(upstream) for upstream in used if upstream in self.upstreams}
        return [self.upstreams[index] for index in self._health.probes(now, busy, _chance())]

    # -- what happens ---------------------------------------------------------------------------------

    def connected(self, upstream: RelayUrl, now: float, rtt: float | None) -> None:
        """Note that an upstream took a connection; ``rtt`` in seconds."""
        if upstream not in self._barren:
            self.measured(upstream, now, rtt)

    def measured(self, upstream: RelayUrl, now: float, rtt: float | None) -> None:
        """Note that an upstream carries."""
        if upstream in self.upstreams:
            self._health.answered(self.upstreams.index(upstream), now, rtt)

    def failed(self, upstream: RelayUrl, now: float, *, stalled: bool = False) -> None:
        """Note that an upstream refused, died, or (``stalled``) took connections and did not carry."""
        if upstream in self.upstreams:
            self._health.failed(self.upstreams.index(upstream), now, _chance(), stalled=stalled)

    def carried_nothing(self, upstream: RelayUrl, now: float, reason: str) -> None:
        """Note that a connection ended without having been of use."""
        self.failed(upstream, now, stalled=True)
        if self._barren.get(upstream) != reason:
            self._barren[upstream] = reason
            _log.warning("relay.carried_nothing", upstream=upstream.name, problem=reason)

    def heard(self, upstream: RelayUrl, now: float) -> None:
        """Note that a frame came from an upstream."""
        if self._barren.pop(upstream, None) is not None:
            _log.info("relay.carries", upstream=upstream.name)
            self.measured(upstream, now, None)

    def problem(self, used: Collection[RelayUrl]) -> str | None:
        """Return why nothing gets through over the upstreams in use, or over any; None: it may."""
        if not used and (self.unreachable is not None or not self._barren):
            return self.unreachable or "no upstream can be reached"
        barren = [each for each in used or self._barren if each in self._barren]
        return f"{barren[0].name}: {self._barren[barren[0]]}" if barren else None
