"""From the peers that a device has to the peers that it should have, with as little as possible.

What disturbs a running tunnel was measured (docs/decisions/0026), hence the rules:

* never remove and re-add a peer that stays, never replace the whole set, send only what differs;
* removals first, so that an allowed IP is never claimed by two peers; then changes; then additions, those
  with a keepalive last, because wireguard-go makes every later peer of an operation handshake too;
* an endpoint that roamed is the peer's own business, and one that has changed does not move a session that is
  answered (`core.paths.moving`). The fast path knows no sessions: it leaves endpoints to the sure path.

A device changes nothing atomically. Every step therefore knows its inverse, and `Plan.undo` takes
back what was granted; what was revoked stays revoked.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from dstack_vpn.core.access.membership import Delta
from dstack_vpn.core.model import DeviceState, Peer, PeerChange, PeerState, RemovePeer, SetPeer, SocketAddress
from dstack_vpn.core.paths.destination import Destinations
from dstack_vpn.core.paths.moving import Evidence, Move, move, strays
from dstack_vpn.core.wireguard.keys import PublicKey

BRAKE_PEERS: Final = 4
"""The number of peers up to which a plan may remove any of them."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change of one peer, why, and what takes it back (None where it stays)."""

    change: PeerChange
    reason: str
    inverse: PeerChange | None = None
    anew: bool = False
    """Whether the peer is removed first, so that its session ends."""

    @property
    def changes(self) -> tuple[PeerChange, ...]:
        """What the device is sent for it, at once."""
        return (RemovePeer(self.change.public_key), self.change) if self.anew else (self.change,)


@dataclass(frozen=True, slots=True)
class Plan:
    """Ordered steps; false if there are none."""

    steps: tuple[Step, ...] = ()
    waiting: frozenset[PublicKey] = frozenset()
    """Peers whose new endpoint waits until they stop answering at the old one."""

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
        """Takes back, in reverse order, all that can be taken back."""
        return tuple(step.inverse for step in reversed(self.steps) if step.inverse is not None)


def plan(
    actual: DeviceState,
    desired: Mapping[PublicKey, Peer],
    sent: Mapping[PublicKey, SocketAddress],
    reasons: Mapping[PublicKey, str],
    evidence: Evidence,
) -> Plan:
    """Return the smallest plan from ``actual`` to ``desired``.

    ``sent`` holds the endpoints that we have sent to the device before, and ``reasons`` why a peer is to go
    or to come.
    """
    removals = [
        Step(RemovePeer(key), reasons.get(key, "not in the registry"))
        for key in actual.peers
        if key not in desired
    ]
    updates: list[Step] = []
    additions: list[Step] = []
    waiting: set[PublicKey] = set()
    for key, peer in desired.items():
        before = actual.peers.get(key)
        if before is None:
            additions.append(_addition(peer, reasons.get(key, "active")))
            continue
        moves = move(before, peer, sent.get(key), evidence)
        if moves is Move.WAIT:
            waiting.add(key)
        if step := _update(before, peer, moves):
            updates.append(step)
    ordered = sorted([*updates, *additions], key=_keepalive)
    return Plan((*removals, *_releases(updates, additions, actual), *ordered), frozenset(waiting))


def differing(
    actual: Mapping[PublicKey, PeerState],
    desired: Mapping[PublicKey, Peer],
    keys: Iterable[PublicKey],
    destinations: Destinations,
) -> list[PublicKey]:
    """Which of the keys a plan might have to speak of: a quick look, before `plan` looks closely."""
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
    """The plan for peers whose events have just come, without reading the device: the fast path.

    Of the peers that stay, only those in ``proven`` have another endpoint set.
    """
    removals: list[Step] = []
    others: list[Step] = []
    for delta in deltas:
        if delta.new is None:
            removals.append(Step(RemovePeer(delta.public_key), delta.reason))
        elif delta.old is None:
            others.append(_addition(delta.new, delta.reason))
        else:
            old = delta.old
            before = PeerState(old.public_key, old.allowed_ips, old.endpoint, old.keepalive)
            moves = delta.public_key in proven and delta.new.endpoint not in {None, old.endpoint}
            if step := _update(before, delta.new, Move.SET if moves else Move.STAY):
                others.append(step)
    return Plan((*removals, *sorted(others, key=_keepalive)))


def brake(plan: Plan, peers: int) -> bool:
    """Whether a plan takes so many of ``peers`` away that a second reading of the chain must confirm it."""
    return too_many(len(plan.removals), peers)


def too_many(removals: int, peers: int) -> bool:
    """Whether so many removals need a second reading of the chain, for a network of so many peers."""
    return peers > BRAKE_PEERS and 2 * removals > peers


def _keepalive(step: Step) -> bool:
    """Sorts the steps that switch a keepalive on behind all others."""
    return isinstance(step.change, SetPeer) and bool(step.change.keepalive)


def _addition(peer: Peer, reason: str) -> Step:
    change = SetPeer(peer.public_key, peer.endpoint, peer.keepalive or None, peer.allowed_ips)
    return Step(change, reason, RemovePeer(peer.public_key))


def _update(before: PeerState, peer: Peer, moves: Move) -> Step | None:
    if moves is Move.RESET:
        change = SetPeer(peer.public_key, peer.endpoint, peer.keepalive or None, peer.allowed_ips)
        back = SetPeer(peer.public_key, before.endpoint, before.keepalive, before.allowed_ips, True)
        return Step(change, "moved", back, anew=True)
    prefixes = peer.allowed_ips if peer.allowed_ips != before.allowed_ips else None
    keepalive = peer.keepalive if peer.keepalive != before.keepalive else None
    endpoint = peer.endpoint if moves is Move.SET else None
    if prefixes is None and keepalive is None and endpoint is None:
        return None
    grows = prefixes is not None and prefixes > before.allowed_ips
    change = SetPeer(
        peer.public_key,
        endpoint,
        keepalive,
        prefixes - before.allowed_ips if prefixes is not None and grows else prefixes,
        replace_allowed_ips=prefixes is not None and not grows,
    )
    inverse = SetPeer(
        peer.public_key,
        before.endpoint if endpoint is not None else None,
        before.keepalive if keepalive is not None else None,
        before.allowed_ips if prefixes is not None else None,
        replace_allowed_ips=prefixes is not None,
    )
    return Step(change, "changed", inverse)


def _releases(updates: list[Step], additions: list[Step], actual: DeviceState) -> list[Step]:
    """First steps where a peer would take an address from one that is updated later.

    Two peers may swap addresses, so no order of the updates alone can do; each peer that has to give
    something up is first cut down to what it keeps.
    """
    releases = []
    claimed = {
        prefix
        for step in (*updates, *additions)
        if isinstance(step.change, SetPeer) and step.change.allowed_ips is not None
        for prefix in step.change.allowed_ips
    }
    for step in updates:
        match step.change:
            case SetPeer(key, _, _, frozenset() as prefixes, True):
                held = actual.peers[key].allowed_ips
                if (held - prefixes) & claimed:
                    cut = SetPeer(key, allowed_ips=held & prefixes, replace_allowed_ips=True)
                    back = SetPeer(key, allowed_ips=held, replace_allowed_ips=True)
                    releases.append(Step(cut, step.reason, back))
    return releases
