"""The bounds of a relay: how much it does, and for whom."""

from dataclasses import dataclass
from typing import Final

from dstack_vpn.core.limits.shares import Kind, Shares
from dstack_vpn.core.wireguard.wire import SESSION_FORGOTTEN

UNHEARD: Final = 10.0
"""Seconds after which a source or connection that WireGuard never answered may be displaced by another."""
_RESERVED: Final = 16
"""One place of so many is reserved for this machine, and one for strangers."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what strangers can use up."""

    total: int = 1024
    """UDP sources, or connections, at once."""
    per_source: int = 256
    """Of these, from one IPv4 address or IPv6 /64. Behind a gateway all come from the gateway's."""
    idle: float = SESSION_FORGOTTEN
    """Seconds of silence after which one is given up: WireGuard has then forgotten its session, too."""
    opening: float = 10.0
    """Seconds that a new connection may take to its first whole frame."""

    def shares(self) -> Shares:
        """Return the division of the places. A place is firm once WireGuard has answered."""
        part = self.total // _RESERVED
        return Shares(
            self.total, self.per_source, reserved={Kind.OURS: part, Kind.STRANGER: part}, stale=UNHEARD
        )
