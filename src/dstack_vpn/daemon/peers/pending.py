"""Peer deltas that wait for the device, and requests to compare the whole device."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from dstack_vpn.core.access.batch import Batch
from dstack_vpn.core.access.membership import Delta
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.peers.debounce import Debounce


@dataclass(slots=True)
class PendingChanges:
    """The queue of changes from the membership to the reconciler."""

    repairs: Debounce
    """The schedule of full comparisons."""
    work: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there are deltas."""
    reasons: dict[PublicKey, str] = field(default_factory=dict)
    """The reason of each peer's change."""
    batch: Batch = field(default_factory=Batch)

    def submit(self, deltas: Sequence[Delta], seen: float) -> None:
        """Add the deltas of an event that arrived at ``seen`` (monotonic seconds).

        A comparison of the device follows a moment later, also without deltas.
        """
        if deltas:
            self.batch.add(deltas, seen)
            self.reasons |= {delta.public_key: delta.reason for delta in deltas}
            self.work.set()
        self.repairs.request()

    def take(self) -> Batch:
        """Remove and return the waiting deltas."""
        batch, self.batch = self.batch, Batch()
        return batch

    def keep_reasons(self, *needed: Collection[PublicKey]) -> None:
        """Forget the reasons for all other peers."""
        for key in self.reasons.keys() - set[PublicKey]().union(*needed):
            del self.reasons[key]
