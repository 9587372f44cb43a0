"""Plans: the smallest set of changes from the peers of a device to the desired ones.

The rules follow from measurements of disturbed tunnels (docs/decisions/0026):

* never remove and re-add a peer that stays, never replace the whole set, send only differences;
* removals come first; then changes and additions, those with a keepalive last, because wireguard-go
  makes every later peer of an operation handshake too;
* an allowed IP moves in one step: WireGuard takes it from its former peer when another peer claims
  it. The allowed IPs of a peer are never replaced as a whole, which would leave it without any for
  a moment. If no peer gets an allowed IP, `NOBODY` claims it, and is removed with it;
* an endpoint that roamed is left to the peer, and an endpoint that has changed does not move a
  session that is answered (`core.paths.moving`). The fast path does not know sessions: it leaves
  endpoints to the repair (`daemon.peers.reconciler`).

A device does not apply changes atomically. Every grant therefore has an inverse in `Plan.undo`.
Revocations stay, also those of single addresses.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from dstack_vpn.core.access.membership import Delta
from dstack_vpn.core.model import (
    Cidr,
    DeviceState,
    Peer,
    PeerChange,
    PeerState,
    RemovePeer,
    SetPeer,
    SocketAddress,
)
from dstack_vpn.core.paths.destination import Destinations
from dstack_vpn.core.paths.moving import Evidence, Move, move, strays
from dstack_vpn.core.wireguard.keys import PublicKey

NOBODY: Final = PublicKey(hashlib.sha256(b"dstack-vpn: the allowed IPs of nobody").digest())
"""The key of a peer that exists for a moment. Its private key is unknown."""
BRAKE_PEERS: Final = 4
"""The number of peers up to which a plan may remove any of them."""


@dataclass(frozen=True, slots=True)
class Step:
    """A change of one peer, its reason, and its inverse (None if it is not undone).

    An inverse does not give back an address that the change takes.
    """

    change: PeerChange
    reason: str
    inverse: PeerChange | None = None
    reset: bool = False
    """The peer is removed first, so that its session ends."""
    cuts: frozenset[Cidr] = frozenset()
    """The allowed IPs that the peer loses, and that no other peer gets."""

    @property
    def changes(self) -> tuple[PeerChange, ...]:
        """Return the device operations of this step, which are sent together."""
        if self.reset:
            return RemovePeer(self.change.public_key), self.change
        return (*_taken(self.cuts), self.change)


@dataclass(frozen=True, slots=True)
class Plan:
    """The ordered steps; false if empty."""

    steps: tuple[Step, ...] = ()
    waiting: frozenset[PublicKey] = frozenset()
    """Peers that keep the old endpoint until they stop answering there."""

    def __bool__(self) -> bool:
        return bool(self.steps)

    @property
    def changes(self) -> tuple[PeerChange, ...]:
        """Return the device operations, in order."""
        return tuple(change for step in self.steps for change in step.changes)

    @property
    def removals(self) -> tuple[Step, ...]:
        """Return the steps that remove a peer."""
        return tuple(step for step in self.steps if isinstance(step.change, RemovePeer))

    @property
    def others(self) -> tuple[Step, ...]:
        """Return the steps that add or change a peer."""
        return tuple(step for step in self.steps if not isinstance(step.change, RemovePeer))

    def keeping(self, keys: Collection[PublicKey]) -> "Plan":
        """Return the plan without its removals of these peers."""
        if not keys:
            return self
        kept = (s for s in self.removals if s.change.public_key not in keys)
        return Plan((*kept, *self.others), self.waiting)

    @property
    def undo(self) -> tuple[PeerChange, ...]:
        """Return the inverses of all steps that have one, in reverse order."""
        return tuple(step.inverse for step in reversed(self.steps) if step.inverse is not None)


def plan(
    actual: DeviceState,
    desired: Mapping[PublicKey, Peer],
    sent: Mapping[PublicKey, SocketAddress],
    reasons: Mapping[PublicKey, str],
    evidence: Evidence,
) -> Plan:
    """Return the smallest plan from ``actual`` to ``desired``.

    ``sent`` contains the endpoints that were last sent to the device, and ``reasons`` the reason
    for each removal or addition.
    """
    removals = [
        Step(RemovePeer(key), reasons.get(key, "not in the registry"))
        for key in actual.peers
        if key not in desired
    ]
    updates: list[Step] = []
    additions: list[Step] = []
    waiting: set[PublicKey] = set()
    claimed = _claims((key, peer.allowed_ips) for key, peer in desired.items())
    for key, peer in desired.items():
        before = actual.peers.get(key)
        if before is None:
            additions.append(_addition(peer, reasons.get(key, "active")))
            continue
        moves = move(before, peer, sent.get(key), evidence)
        if moves is Move.WAIT:
            waiting.add(key)
        if step := _update(_without(before, claimed), peer, moves):
            updates.append(step)
    ordered = sorted([*updates, *additions], key=_keepalive)
    return Plan((*removals, *ordered), frozenset(waiting))


def differing(
    actual: Mapping[PublicKey, PeerState],
    desired: Mapping[PublicKey, Peer],
    keys: Iterable[PublicKey],
    destinations: Destinations,
) -> list[PublicKey]:
    """Return the keys that a plan may have to change: a quick check before `plan`."""
    return [
        key
        for key in keys
        if (peer := desired.get(key)) is None
        or (state := actual.get(key)) is None
        or peer.allowed_ips != state.allowed_ips
        or peer.keepalive != state.keepalive
        or (peer.endpoint is not None and peer.endpoint != state.endpoint)
        or strays(state, destinations)
    ]


def plan_deltas(deltas: Iterable[Delta], proven: Collection[PublicKey] = frozenset()) -> Plan:
    """Return the plan for peers with new events, without a read of the device: the fast path.

    Of the peers that stay, only those in ``proven`` get another endpoint.
    """
    removals: list[Step] = []
    others: list[Step] = []
    deltas = list(deltas)
    claimed = _claims((delta.public_key, delta.gained) for delta in deltas)
    for delta in deltas:
        if delta.new is None:
            removals.append(Step(RemovePeer(delta.public_key), delta.reason))
        elif delta.old is None:
            others.append(_addition(delta.new, delta.reason))
        else:
            old = delta.old
            before = _without(
                PeerState(old.public_key, old.allowed_ips, old.endpoint, old.keepalive), claimed
            )
            moves = delta.public_key in proven and delta.new.endpoint not in {None, old.endpoint}
            if step := _update(before, delta.new, Move.SET if moves else Move.STAY):
                others.append(step)
    return Plan((*removals, *sorted(others, key=_keepalive)))


def brake(plan: Plan, peers: int) -> bool:
    """Return whether a plan removes so many of ``peers`` peers that the mass removal guard applies.

    A second reading of the chain must then confirm the removals.
    """
    return too_many(len(plan.removals), peers)


def too_many(removals: int, peers: int) -> bool:
    """Return whether this many removals, of ``peers``, need a second reading of the chain."""
    return peers > BRAKE_PEERS and 2 * removals > peers


def _keepalive(step: Step) -> bool:
    """Return the sort key that puts steps with a keepalive behind all others."""
    return isinstance(step.change, SetPeer) and bool(step.change.keepalive)


def _taken(cuts: frozenset[Cidr]) -> tuple[PeerChange, ...]:
    """Return the operations that take allowed IPs from a peer, and leave its other ones alone."""
    return (SetPeer(NOBODY, allowed_ips=cuts), RemovePeer(NOBODY)) if cuts else ()


def _claims(peers: Iterable[tuple[PublicKey, Iterable[Cidr]]]) -> dict[Cidr, PublicKey]:
    """Return the peer that is to have each allowed IP."""
    return {prefix: key for key, prefixes in peers for prefix in prefixes}


def _without(before: PeerState, claimed: Mapping[Cidr, PublicKey]) -> PeerState:
    """Return a peer as it is once the other peers have claimed their allowed IPs."""
    key = before.public_key
    # Only the smaller of the two sets is searched.
    lost = {prefix for prefix in before.allowed_ips & claimed.keys() if claimed[prefix] != key}
    return replace(before, allowed_ips=before.allowed_ips - lost) if lost else before


def _addition(peer: Peer, reason: str) -> Step:
    change = SetPeer(peer.public_key, peer.endpoint, peer.keepalive or None, peer.allowed_ips)
    return Step(change, reason, RemovePeer(peer.public_key))


def _update(before: PeerState, peer: Peer, moves: Move) -> Step | None:
    if moves is Move.RESET:
        change = SetPeer(peer.public_key, peer.endpoint, peer.keepalive or None, peer.allowed_ips)
        kept = before.allowed_ips & peer.allowed_ips
        back = SetPeer(peer.public_key, before.endpoint, before.keepalive, kept, True)
        return Step(change, "moved", back, reset=True)
    gained, cuts = peer.allowed_ips - before.allowed_ips, before.allowed_ips - peer.allowed_ips
    keepalive = peer.keepalive if peer.keepalive != before.keepalive else None
    endpoint = peer.endpoint if moves is Move.SET else None
    if not gained and not cuts and keepalive is None and endpoint is None:
        return None
    change = SetPeer(peer.public_key, endpoint, keepalive, gained or None)
    inverse = SetPeer(
        peer.public_key,
        before.endpoint if endpoint is not None else None,
        before.keepalive if keepalive is not None else None,
        # An address that was taken, such as that of a revoked client, does not come back.
        before.allowed_ips & peer.allowed_ips if gained else None,
        replace_allowed_ips=bool(gained),
    )
    return Step(change, "changed", inverse, cuts=cuts)
