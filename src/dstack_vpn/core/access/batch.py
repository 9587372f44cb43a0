"""Peer deltas that wait for the device: several events combined into one delta for each peer."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from dstack_vpn.core.access.membership import Delta
from dstack_vpn.core.wireguard.keys import PublicKey


@dataclass(slots=True)
class Batch:
    """Deltas, and the time at which the first of their events was seen (monotonic seconds)."""

    deltas: dict[PublicKey, Delta] = field(default_factory=dict)
    seen: float = 0.0

    def add(self, deltas: Iterable[Delta], seen: float) -> None:
        """Add the deltas of one event; a peer that was added and removed again leaves no delta."""
        self.seen = min(self.seen or seen, seen)
        for delta in deltas:
            earlier = self.deltas.pop(delta.public_key, None)
            old = delta.old if earlier is None else earlier.old
            if old != delta.new:
                self.deltas[delta.public_key] = replace(delta, old=old)
