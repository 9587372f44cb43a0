"""How much a relay does for whom."""

from collections import Counter
from dataclasses import dataclass, field

from dstack_vpn.core.wgwire import SESSION_FORGOTTEN


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what strangers can use up."""

    total: int = 1024
    """UDP sources, or connections, at once."""
    per_source: int = 256
    """Of these, from one IP address. Behind a gateway all come from the gateway's."""
    idle: float = SESSION_FORGOTTEN
    """Seconds of silence after which one is given up: WireGuard has then forgotten its session, too."""
    opening: float = 10.0
    """Seconds that a new connection may take to its first whole frame."""


@dataclass(slots=True)
class Occupancy:
    """Who uses how much."""

    limits: Limits
    total: int = 0
    _by_source: Counter[str] = field(default_factory=Counter)

    def admits(self, source: str) -> bool:
        """Whether there is room for one more of this source."""
        return self.total < self.limits.total and self._by_source[source] < self.limits.per_source

    def enter(self, source: str) -> None:
        """One more."""
        self.total += 1
        self._by_source[source] += 1

    def leave(self, source: str) -> None:
        """One less."""
        self.total -= 1
        self._by_source[source] -= 1
        if not self._by_source[source]:
            del self._by_source[source]
