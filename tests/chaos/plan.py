"""The rounds of a chaos run, which depend only on a seed.

A round begins one or two faults, changes the registry while they last, ends them, and waits until
all nodes have recovered. Faults are drawn as from a deck of cards: no fault comes again before all
others have been drawn.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, Literal

What = Literal["mint", "revoke", "transfer", "rotate", "expire", "tag", "policy", "client", "route"]
_WHAT: Final[tuple[What, ...]] = (
    *("mint", "revoke", "revoke", "transfer", "rotate", "expire"),
    *("tag", "tag", "policy"),
    *("client", "client", "route", "route"),
)

EVERYWHERE: Final = "*"
"""The target of a fault that affects all nodes."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault, for planning."""

    name: str
    targets: str
    """The possible targets, a letter each; `EVERYWHERE` if it always affects all nodes."""
    hold: tuple[float, float]
    """The minimum and maximum duration, in seconds."""
    limit: float
    """Seconds after the fault's end within which its target agrees with the contract again."""
    cuts_off: bool = True
    """While the fault lasts, its target may not follow or apply the contract's state."""
    breaks_tunnels: bool = False
    """The fault may break the target's tunnels, but not those of other nodes."""
    forgets_policy: bool = False
    """The target has no last good policy, and permits nothing until it has read one (0037)."""
    changes: bool = True
    """The registry can be changed while the fault lasts."""
    own_clock: bool = True
    """The target's clock stays correct, so that access expires in time."""


_ANY, _DEVICE = "abcdm", "cdm"
_RESYNC: Final = 15.0
"""A limit in seconds. Here, peers are compared every 5 s, addresses and routes every 10 s."""
_AGAIN: Final = 45.0
"""Seconds. Silence is detected in 6 to 30 s. A failed endpoint is avoided for at most 15 s."""

KINDS: Final = (
    Kind("nothing at all", _ANY, (0.5, 2), 2, cuts_off=False),
    # -- processes
    Kind("daemon killed", _ANY, (0, 3), 10),
    Kind("daemon suspended", _ANY, (0.2, 8), 10),
    Kind("wireguard-go killed", _DEVICE, (0, 2), 15, breaks_tunnels=True),
    Kind("wireguard-go suspended", _DEVICE, (0.2, 5), 15, breaks_tunnels=True),
    Kind("both killed", _DEVICE, (0, 3), 15, breaks_tunnels=True),
    Kind("gateway killed", "c", (6, 12), 15, breaks_tunnels=True),
    Kind("anvil killed", EVERYWHERE, (0, 5), _AGAIN, changes=False),
    Kind("anvil suspended", EVERYWHERE, (0.5, 15), _AGAIN, changes=False),
    Kind("relay killed", "d", (0, 5), 30, cuts_off=False, breaks_tunnels=True),
    # -- endpoints: the endpoint in use, or all endpoints of the node
    Kind("rpc stalls", _ANY, (1, 20), _AGAIN),
    Kind("rpc truncates", _ANY, (1, 10), _AGAIN),
    Kind("rpc floods", _ANY, (1, 10), _AGAIN),
    Kind("rpc rate-limits", _ANY, (1, 10), _AGAIN),
    Kind("rpc answers HTML", _ANY, (1, 10), _AGAIN),
    Kind("rpc answers noise", _ANY, (1, 10), _AGAIN),
    Kind("rpc goes back in time", _ANY, (1, 20), _AGAIN),
    Kind("rpc serves another chain", _ANY, (1, 10), _AGAIN + 60),
    Kind("rpc refuses", _ANY, (1, 10), _AGAIN),
    # -- the chain
    Kind("reorg", EVERYWHERE, (0, 1), 10, cuts_off=False),
    Kind("anvil wakes up older", EVERYWHERE, (0, 2), _AGAIN, changes=False),
    # -- the machine
    Kind("disk full", _ANY, (1, 8), 10, cuts_off=False),
    Kind("store corrupted", _ANY, (0, 1), 15, forgets_policy=True),
    Kind("clock jumps", _ANY, (2, 8), 15, cuts_off=False, own_clock=False),
    # -- changes of the device by other programs
    Kind("wg removes a peer", _DEVICE, (0, 1), _RESYNC, breaks_tunnels=True),
    Kind("wg adds a stranger", _DEVICE, (0, 1), _RESYNC),
    Kind("wg edits a peer", _DEVICE, (0, 1), _RESYNC, breaks_tunnels=True),
    Kind("wg changes key and port", _DEVICE, (0, 1), _RESYNC, breaks_tunnels=True),
    Kind("nft flushes all rules", _ANY, (0, 1), _RESYNC, cuts_off=False),
    Kind("nft closes a group", _DEVICE, (0, 1), _RESYNC, cuts_off=False, breaks_tunnels=True),
    Kind("ip sets it down", _DEVICE, (0, 1), _RESYNC, breaks_tunnels=True),
    Kind("ip takes the address", _DEVICE, (0, 1), _RESYNC, breaks_tunnels=True),
    Kind("ip deletes it", _DEVICE, (0, 1), 15, breaks_tunnels=True),
)
BY_NAME: Final = {kind.name: kind for kind in KINDS}
SLOTS: Final = tuple(f"m{number}" for number in range(6))
"""The names of members that exist only in the registry, and are minted and revoked."""


@dataclass(frozen=True, slots=True)
class Change:
    """A planned transaction."""

    what: What
    slot: str
    pause: float
    """Seconds to wait before it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a round."""

    kind: Kind
    target: str
    strength: float
    """In [0, 1): a depth, a distance or a number, depending on the kind."""


@dataclass(frozen=True, slots=True)
class Round:
    """The faults and changes between one healthy state of all nodes and the next."""

    number: int
    faults: tuple[Fault, ...]
    hold: float
    changes: tuple[Change, ...]

    @property
    def name(self) -> str:
        """Return the names of the faults."""
        return " + ".join(fault.kind.name for fault in self.faults)


def rounds(seed: int, pace: float = 1.0, kinds: Sequence[Kind] = KINDS) -> Iterator[Round]:
    """Yield the rounds of a seed, without end; ``pace`` is a factor that shortens the faults."""
    dice = random.Random(seed)
    deck: list[Kind] = []
    for number in count(1):
        faults: list[Fault] = []
        while not faults or (len(faults) == 1 and dice.random() < 0.2):
            if not deck:
                deck = dice.sample(kinds, len(kinds))
            faults.append(Fault(deck[-1], dice.choice(deck.pop().targets), dice.random()))
        yield _round(number, _compatible(faults, deck), pace, dice)


def _compatible(faults: list[Fault], deck: list[Kind]) -> tuple[Fault, ...]:
    """Return the faults that can run together; put the second back into the deck otherwise.

    Two faults must affect two nodes, so that the effects of each can be distinguished.
    """
    if len(faults) == 2 and (
        faults[0].target == faults[1].target
        or any(fault.target == EVERYWHERE or not fault.kind.changes for fault in faults)
    ):
        deck.append(faults.pop().kind)
    return tuple(faults)


def _round(number: int, faults: tuple[Fault, ...], pace: float, dice: random.Random) -> Round:
    shortest = max(fault.kind.hold[0] for fault in faults)
    longest = max(fault.kind.hold[1] for fault in faults)
    hold = dice.uniform(shortest, shortest + pace * (longest - shortest))
    changes: list[Change] = []
    for _ in range(dice.randint(1, 4)):
        what = dice.choice(_WHAT)
        if what == "expire" and not all(fault.kind.own_clock for fault in faults):
            what = "revoke"
        changes.append(Change(what, dice.choice(SLOTS), dice.uniform(0, hold / 4)))
    return Round(number, faults, hold, tuple(changes) if all(f.kind.changes for f in faults) else ())
