"""Limits on the sources and connections that a relay serves."""

from dataclasses import dataclass
from typing import Final

from dstack_vpn.core.limits.shares import Kind, Shares
from dstack_vpn.core.wireguard.wire import SESSION_FORGOTTEN

UNHEARD: Final = 10.0
"""Seconds after which a source or connection without an answer from WireGuard may be displaced."""
_RESERVED: Final = 16
"""The divisor of the places: one part is reserved for this machine, and one for strangers."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the resources that clients can use."""

    total: int = 1024
    """The maximum number of concurrent UDP sources, or connections."""
    per_source: int = 256
    """The maximum from one IPv4 address or IPv6 /64. A gateway's clients share its address."""
    idle: float = SESSION_FORGOTTEN
    """Seconds of silence until one is closed: WireGuard has then forgotten its session, too."""
    opening: float = 10.0
    """Seconds that a new connection may take until its first complete frame."""

    def shares(self) -> Shares:
        """Return the division of the places. A place is firm after WireGuard has answered."""
        part = self.total // _RESERVED
        return Shares(
            self.total, self.per_source, reserved={Kind.OURS: part, Kind.STRANGER: part}, stale=UNHEARD
        )
