"""The choice of the path to a peer: by UDP, or over its relays if UDP is blocked.

    udp --answers overdue--> relay --a probe was answered, or answers are overdue here too--> udp

The choice follows the device's byte counters: WireGuard answers all data and handshake initiations
(`core.wireguard.wire`), so a peer that is sent bytes and sends none is not reached. If neither path
reaches the peer, it is probably off: the paths are then tried in turn, for growing times. UDP is
probed at growing intervals, without risk: the relay continues to carry packets during a probe.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.wire import asks_for_answer

NO_HANDSHAKE: Final = 10.0
"""Seconds: two handshake attempts of WireGuard (REKEY_TIMEOUT, 5 s) without an answer."""
NO_ANSWER: Final = 15.0
"""Seconds within a session: KEEPALIVE_TIMEOUT and REKEY_TIMEOUT.

WireGuard itself then starts a new handshake.
"""
PATIENCE: Final = 4
"""The largest factor on these times if neither path reaches the peer."""
PROBE: Final = (30.0, 900.0)
"""Seconds until the first probe of UDP, doubled each time, and the maximum."""
STEADY: Final = 600.0
"""Seconds for which UDP must be the path until its earlier failures are forgotten."""


class TransportMode(StrEnum):
    """The transports that the operator allows."""

    AUTO = "auto"
    UDP = "udp"
    TCP = "tcp"
    TLS = "tls"


class Path(StrEnum):
    """The path to a peer."""

    UDP = "udp"
    RELAY = "relay"


def usable(peer_endpoint: PeerEndpoint, transport: TransportMode) -> PeerEndpoint:
    """Return the alternatives that the setting allows; the result may be empty."""
    match transport:
        case TransportMode.AUTO:
            return peer_endpoint
        case TransportMode.UDP:
            return replace(peer_endpoint, relays=())
        case scheme:
            relays = tuple(relay for relay in peer_endpoint.relays if relay.scheme == scheme)
            return replace(peer_endpoint, udp=None, relays=relays)


@dataclass(slots=True)
class PathSelector:
    """The selected path to a peer that has both. Times are monotonic seconds."""

    way: Path = Path.UDP
    _since: float = 0.0
    _counters: tuple[int, int] = (0, 0)
    """Bytes sent and received at the last `look`."""
    _unanswered: float | None = None
    """The time since which bytes were sent and none received; None: nothing is outstanding."""
    _silent: int = 0
    """Changes of the path since bytes were last received."""
    _failures: int = 0
    """Failures of UDP that are not forgotten yet."""
    proven: bool = False
    """A packet of the peer arrived by UDP since UDP became the path."""
    _probes: int = 0
    _probe_at: float = 0.0

    def look(
        self, now: float, sent: int, received: int, *, session: bool, direct: bool, relayed: bool = False
    ) -> bool:
        """Compare the peer's byte counters; returns whether the path has changed.

        ``session`` means that a completed handshake is still valid, ``direct`` that the device last
        received from the peer's own UDP address, and ``relayed`` that it last received from our
        relay. A peer that sends by UDP can be answered by UDP. A peer that sends by the relay
        only is, as far as is known, not at its UDP address.
        """
        before, self._counters = self._counters, (sent, received)
        if received > before[1]:
            self._received(now)
            return (direct and self.by_udp(now)) or (relayed and self._by_relay(now))
        return asks_for_answer(sent - before[0]) and self._overdue(now, session=session)

    def nowhere(self, now: float) -> bool:
        """Record that UDP has no address or no route; returns whether the path has changed."""
        return self._overdue(now, session=False)

    @property
    def exhausted(self) -> bool:
        """Return whether both paths were tried since the last packet of the peer."""
        return self._silent > 1

    def by_udp_for(self, now: float) -> float:
        """Return the seconds since UDP became the path; 0 if it is not."""
        return now - self._since if self.way is Path.UDP else 0.0

    def probe(self, now: float, jitter: float) -> bool:
        """Return whether to probe UDP now; ``jitter`` is from 0 to 1."""
        if self.way is not Path.RELAY or now < self._probe_at:
            return False
        self._probes += 1
        self._plan_probe(now, jitter)
        return True

    def probe_soon(self) -> None:
        """Forget the failures and probes of UDP: its address has changed."""
        self._failures = self._probes = 0
        self._probe_at = 0.0

    def by_udp(self, now: float) -> bool:
        """Record a packet of the peer by UDP; returns whether the path has changed."""
        self.proven = True
        if self.way is Path.UDP:
            return False
        self.way, self._since, self._unanswered, self._silent = Path.UDP, now, None, 0
        return True

    def _by_relay(self, now: float) -> bool:
        if self.way is Path.RELAY or self.proven:
            return False
        self._turn(now)
        self._silent = 0
        return True

    def _received(self, now: float) -> None:
        self._unanswered, self._silent = None, 0
        if self.way is Path.UDP and now - self._since >= STEADY:
            self._failures = 0

    def _overdue(self, now: float, *, session: bool) -> bool:
        if self._unanswered is None:
            self._unanswered = now
        limit = (NO_ANSWER if session else NO_HANDSHAKE) * min(2**self._silent, PATIENCE)
        if now - self._unanswered < limit:
            return False
        self._turn(now)
        return True

    def _turn(self, now: float) -> None:
        """Change to the other path."""
        self.way, self.proven = Path.RELAY if self.way is Path.UDP else Path.UDP, False
        if self.way is Path.RELAY and not self._silent:
            self._failures += 1
        self._silent = min(self._silent + 1, PATIENCE)
        self._since, self._unanswered, self._probes = now, None, 0
        self._plan_probe(now, 0.5)

    def _plan_probe(self, now: float, jitter: float) -> None:
        first, longest = PROBE
        doublings = min(max(self._failures - 1, 0) + self._probes, 10)
        self._probe_at = now + min(first * 2**doublings, longest) * (0.75 + jitter / 2)
