"""The mass removal guard: it holds removals of more than half of the peers.

Held removals wait for a second reading of the chain. Removals are counted over an hour
(`core.access.removals`), so that many small plans wait like a large one. Only removals that have
the chain as their only reason are held. Peers outside of the operator's pin and peers without a
grant of the policy are removed at once, and so are all peers if the settings have the node isolate
itself or if a policy can't be enforced.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from dstack_vpn.core.access.control import Reason
from dstack_vpn.core.access.plan import Plan
from dstack_vpn.core.access.removals import Removals
from dstack_vpn.core.model import TokenId
from dstack_vpn.core.observe.events import BrakeEngaged, BrakeReleased
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.ports import Clock, Publish


@dataclass(slots=True)
class MassRemovalGuard:
    """Decides which removals are held and which are carried out."""

    members: Members
    clock: Clock
    publish: Publish
    held: set[PublicKey] = field(default_factory=set)
    """Removals that wait for a second reading."""
    released: set[PublicKey] = field(default_factory=set)
    """Removals that a second reading of the chain has confirmed."""
    counted: Removals = field(default_factory=Removals)
    """Removals that were carried out without a second reading."""
    engaged: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while there may be something to confirm."""

    def check(self, steps: Plan, present: Mapping[PublicKey, TokenId | None]) -> Plan:
        """Return the plan without held removals; ``present`` are the peers that the device has."""
        now = self.clock.monotonic()
        self.counted.observe(len(present), now)
        self.forget_what_stays(present)
        left_out = self._left_out(steps)
        self.held -= left_out
        going = {step.change.public_key for step in steps.removals} & present.keys()
        unconfirmed = going - self.released - left_out
        if self.held or self.counted.exceed(unconfirmed):
            self._hold(unconfirmed, len(present))
        else:
            self.counted.let_go({key: present[key] for key in unconfirmed}, now)
        return steps.keeping(self.held)

    def doubtful(self, present: Mapping[PublicKey, TokenId | None]) -> dict[PublicKey, TokenId | None]:
        """Return the keys and tokens for a second reading: held removals and counted ones."""
        gone = {key: gone.token for key, gone in self.counted.gone.items()}
        return gone | {key: present.get(key) for key in self.held}

    def release(self, keys: Collection[PublicKey]) -> None:
        """Release these removals: a second reading has confirmed them."""
        self.counted.forget(keys)
        waited = self.held & set(keys)
        if not waited:
            return
        self.publish(BrakeReleased(len(waited)))
        self.released |= waited
        self.held -= waited

    def settle(self) -> None:
        """Set `engaged` if removals are held, else clear it."""
        if self.held:
            self.engaged.set()
        else:
            self.engaged.clear()

    def forget_what_stays(self, present: Mapping[PublicKey, TokenId | None]) -> None:
        """Drop what was counted, held or released for peers that are gone or are members again."""
        self.counted.forget([key for key in self.counted.gone if key in self.members.membership.peers])
        if self.held or self.released:
            going = present.keys() - self.members.membership.peers.keys()
            self.held &= going
            self.released &= going

    def _hold(self, doubtful: set[PublicKey], peers: int) -> None:
        if doubtful - self.held:
            self.publish(BrakeEngaged(len(doubtful), peers))
        self.held |= doubtful
        self.settle()

    def _left_out(self, steps: Plan) -> set[PublicKey]:
        """Return the removals that need no second reading: by the pin, isolation or a policy.

        A policy is enforced by the packet filter as well, and the quorum decides which one counts.
        """
        removed = {step.change.public_key for step in steps.removals}
        if self.members.isolated or self.members.admission.unenforced:
            return removed
        access, now, pinned = self.members.access, self.members.now(), self.members.membership.pinned
        left_out = set() if pinned is None else removed - pinned.keys()
        if access.policy is not None:
            left_out |= {key for key in removed if access.decide(key, now).reason is Reason.NO_GRANT}
        return left_out
