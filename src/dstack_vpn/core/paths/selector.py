"""Which way a peer is reached: by UDP, or over its relays where UDP is blocked.

    udp --answers overdue--> relay --a probe was answered, or answers are overdue here too--> udp

What tells is the device's own counters: WireGuard promises an answer to all that it is sent (`wgwire`), so a
peer to whom bytes go, and from whom none come, is not reached. Where neither way leads to the peer it is
probably off: the ways are then tried in turn, more and more patiently. A way back to UDP is looked for at
growing intervals, and found without risk: the relay goes on carrying meanwhile.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.wire import asks_for_answer

NO_HANDSHAKE: Final = 10.0
"""Seconds: two attempts of WireGuard (REKEY_TIMEOUT is 5 s) without any answer."""
NO_ANSWER: Final = 15.0
"""Seconds within a session: KEEPALIVE_TIMEOUT and REKEY_TIMEOUT, when WireGuard itself begins to doubt."""
PATIENCE: Final = 4
"""So many times as patient, at most, where neither way leads anywhere."""
PROBE: Final = (30.0, 900.0)
"""Seconds until UDP is first probed, twice as long each time, and at most."""
STEADY: Final = 600.0
"""Seconds that UDP must have carried until its earlier failures are forgotten."""


class TransportMode(StrEnum):
    """What the operator allows."""

    AUTO = "auto"
    UDP = "udp"
    TCP = "tcp"
    TLS = "tls"


class Path(StrEnum):
    """How a peer is reached now."""

    UDP = "udp"
    RELAY = "relay"


def usable(peer_endpoint: PeerEndpoint, transport: TransportMode) -> PeerEndpoint:
    """The alternatives that the setting allows; there may be none."""
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
    """The way to a peer that can be reached both ways. Times are monotonic seconds."""

    way: Path = Path.UDP
    _since: float = 0.0
    _counters: tuple[int, int] = (0, 0)
    """Bytes sent and received, at the last look."""
    _unanswered: float | None = None
    """Since when there is sending without hearing."""
    _silent: int = 0
    """Changes of the way since something was heard."""
    _failures: int = 0
    """Times that UDP failed and was not forgiven."""
    proven: bool = False
    """Whether the peer was heard by UDP since UDP became the way."""
    _probes: int = 0
    _probe_at: float = 0.0

    def look(
        self, now: float, sent: int, received: int, *, session: bool, direct: bool, relayed: bool = False
    ) -> bool:
        """Take note of the peer's byte counters; returns whether the way has changed.

        ``session`` tells whether a handshake was completed that still counts, ``direct`` whether the device
        has heard the peer last from its own UDP address, and ``relayed`` whether it has from our relay. A
        peer that calls by UDP can be answered by UDP. One that is heard by the relay alone is not at its UDP
        address, as far as is known.
        """
        before, self._counters = self._counters, (sent, received)
        if received > before[1]:
            self._heard(now)
            return (direct and self.by_udp(now)) or (relayed and self._by_relay(now))
        return asks_for_answer(sent - before[0]) and self._overdue(now, session=session)

    def nowhere(self, now: float) -> bool:
        """UDP has no address to send to, or no route there; returns whether the way has changed."""
        return self._overdue(now, session=False)

    @property
    def exhausted(self) -> bool:
        """Whether both ways were tried since the peer was last heard."""
        return self._silent > 1

    def by_udp_for(self, now: float) -> float:
        """Seconds since UDP became the way; 0 where it is not."""
        return now - self._since if self.way is Path.UDP else 0.0

    def probe(self, now: float, jitter: float) -> bool:
        """Whether to probe UDP now; ``jitter`` is from 0 to 1."""
        if self.way is not Path.RELAY or now < self._probe_at:
            return False
        self._probes += 1
        self._plan_probe(now, jitter)
        return True

    def probe_soon(self) -> None:
        """UDP leads elsewhere now: what was learned of it counts no more."""
        self._failures = self._probes = 0
        self._probe_at = 0.0

    def by_udp(self, now: float) -> bool:
        """The peer was heard by UDP; returns whether the way has changed."""
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

    def _heard(self, now: float) -> None:
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
        """Try the other way."""
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
