"""What happens to a node, as a closed union: the one stream that events, audit and counters are made from.

The bridge says each of these once, when it has come about: a change of a peer after the device has
acknowledged it, a chain event after it was folded. Whoever listens (`bridge.journal`) numbers them.
Fields are plain and already validated; times that took are in seconds, blocks are heights. What comes from
the chain itself is in `core.chain_happenings`.
"""

from dataclasses import dataclass, fields
from typing import ClassVar, Final, Literal, TypeAlias, get_args

from dstack_vpn.core.chain_happenings import (
    EndpointLost,
    EndpointQuarantined,
    EndpointUsed,
    RegistryRead,
    Reorged,
    TokenChanged,
    TokensChanged,
)
from dstack_vpn.core.keys import PublicKey
from dstack_vpn.core.model import Address, TokenId

Scalar: TypeAlias = str | int | float | bool | None


# -- access and peers ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision about a token has changed, for whatever reason: an event, a head, the time, a pin."""

    kind: ClassVar[str] = "access.decided"
    token: TokenId
    node: str | None
    granted: bool
    reason: str
    cause: str | None


@dataclass(frozen=True, slots=True)
class DecisionsChanged:
    """The decisions about many tokens have changed at once; the audit log has a record for each of them."""

    kind: ClassVar[str] = "access.decided_many"
    hidden: ClassVar[frozenset[str]] = frozenset({"decisions"})
    granted: int
    refused: int
    decisions: tuple[Decided, ...]


@dataclass(frozen=True, slots=True)
class PeerSet:
    """The device has a peer that it did not have (``added``), or has it otherwise than before."""

    kind: ClassVar[str] = "peer.set"
    peer: PublicKey
    token: TokenId | None
    node: str | None
    owner: Address | None
    reason: str
    added: bool
    block: int | None
    latency: float | None
    """Seconds from the event's arrival to the device's acknowledgement; None: a repair, no event."""
    cause: str | None = None
    """The last event of the token (`TokenChanged.cause`); None where none was seen since the start."""


@dataclass(frozen=True, slots=True)
class PeerRemoved:
    """The device has a peer no more."""

    kind: ClassVar[str] = "peer.removed"
    peer: PublicKey
    token: TokenId | None
    node: str | None
    owner: Address | None
    reason: str
    block: int | None
    latency: float | None
    """As with `PeerSet`."""
    cause: str | None = None
    """As with `PeerSet`."""


@dataclass(frozen=True, slots=True)
class PeersChanged:
    """Many peers at once, too many to tell one by one."""

    kind: ClassVar[str] = "peers.changed"
    set: int
    removed: int
    block: int | None
    latency: float | None
    """As with `PeerSet`."""


@dataclass(frozen=True, slots=True)
class PeerRefused:
    """The device would not take a peer."""

    kind: ClassVar[str] = "peer.refused"
    peer: PublicKey
    token: TokenId | None
    problem: str


@dataclass(frozen=True, slots=True)
class FieldRefused:
    """What the chain says about a token can't be used; the text itself stays out of here."""

    kind: ClassVar[str] = "token.refused"
    token: TokenId
    field: str
    problem: str


@dataclass(frozen=True, slots=True)
class TransportChanged:
    """A peer is reached in another way."""

    kind: ClassVar[str] = "peer.transport"
    peer: PublicKey
    token: TokenId | None
    node: str | None
    way: Literal["udp", "relay"]


@dataclass(frozen=True, slots=True)
class PeerSilent:
    """Bytes go to a peer, and none come from it: it is off, or the path to it is broken."""

    kind: ClassVar[str] = "peer.no_answer"
    peer: PublicKey
    token: TokenId | None
    node: str | None


@dataclass(frozen=True, slots=True)
class PeerAnswered:
    """A peer that did not answer was heard again."""

    kind: ClassVar[str] = "peer.answered"
    peer: PublicKey
    token: TokenId | None
    node: str | None


@dataclass(frozen=True, slots=True)
class PeersAnswering:
    """Many peers have stopped answering, or answer again, at once."""

    kind: ClassVar[str] = "peers.answering"
    silent: int
    answering: int


# -- plans --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlanFailed:
    """The device refused a plan, or was lost under it."""

    kind: ClassVar[str] = "plan.failed"
    steps: int
    problem: str
    rolled_back: bool


@dataclass(frozen=True, slots=True)
class BrakeEngaged:
    """Removals wait for a second reading of the chain."""

    kind: ClassVar[str] = "brake.engaged"
    removals: int
    peers: int


@dataclass(frozen=True, slots=True)
class BrakeReleased:
    """A second reading has confirmed held removals."""

    kind: ClassVar[str] = "brake.released"
    removals: int


@dataclass(frozen=True, slots=True)
class BrakeContradicted:
    """A second reading of the chain says that held removals are still members: the readings disagree."""

    kind: ClassVar[str] = "brake.contradicted"
    endpoint: str
    peers: int


@dataclass(frozen=True, slots=True)
class PinChanged:
    """The operator has pinned an earlier configuration, or (``peers`` None) let go of it."""

    kind: ClassVar[str] = "config.pin"
    peers: int | None


# -- the node -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyChanged:
    """The registry has named another key of ours, which we have taken."""

    kind: ClassVar[str] = "key.changed"
    key: PublicKey


@dataclass(frozen=True, slots=True)
class KeyChangeFailed:
    """Our key is old, and another could not be announced: the old one stays in use."""

    kind: ClassVar[str] = "key.change_failed"
    tries: int
    """In a row."""
    problem: str


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """A component is otherwise than before."""

    kind: ClassVar[str] = "health.changed"
    component: str
    before: str
    status: str
    reason: str


Happening: TypeAlias = (
    EndpointUsed
    | EndpointLost
    | EndpointQuarantined
    | RegistryRead
    | TokenChanged
    | TokensChanged
    | Reorged
    | Decided
    | DecisionsChanged
    | PeerSet
    | PeerRemoved
    | PeersChanged
    | PeerRefused
    | FieldRefused
    | TransportChanged
    | PeerSilent
    | PeerAnswered
    | PeersAnswering
    | PlanFailed
    | BrakeEngaged
    | BrakeReleased
    | BrakeContradicted
    | PinChanged
    | KeyChanged
    | KeyChangeFailed
    | HealthChanged
)

KINDS: Final[tuple[str, ...]] = tuple(sorted(kind.kind for kind in get_args(Happening)))


@dataclass(frozen=True, slots=True)
class Entry:
    """A happening in its place: numbers rise by one from 1 at the node's start; ``at`` is in Unix seconds."""

    number: int
    at: float
    what: Happening


def plain(what: Happening) -> dict[str, Scalar]:
    """A happening's fields as JSON can hold them, the kind first; a latency becomes milliseconds."""
    found: dict[str, Scalar] = {"kind": what.kind}
    for name in _FIELDS[type(what)]:
        value = getattr(what, name)
        if name == "latency":
            found["latency_ms"] = None if value is None else round(value * 1000, 3)
        else:
            found[name] = str(value) if isinstance(value, PublicKey) else value
    return found


_FIELDS: Final = {
    kind: tuple(f.name for f in fields(kind) if f.name not in getattr(kind, "hidden", ()))
    for kind in get_args(Happening)
}
