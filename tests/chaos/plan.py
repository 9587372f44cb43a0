"""What happens in a run of chaos, decided by a seed alone: the same seed gives the same rounds.

A round begins one fault or two, changes the registry while they last, ends them, and lets everything settle.
Faults come as from a deck of cards: none comes again before every other has had its turn.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, Literal

What = Literal["mint", "revoke", "transfer", "rotate", "expire"]
_WHAT: Final[tuple[What, ...]] = ("mint", "revoke", "revoke", "transfer", "rotate", "expire")

EVERYWHERE: Final = "*"
"""The target of a fault that every node meets."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A fault, as far as planning goes."""

    name: str
    targets: str
    """The nodes that it may hit, a letter each; `EVERYWHERE`: it can't be had for one."""
    hold: tuple[float, float]
    """Seconds that it lasts, at least and at most."""
    limit: float
    """Seconds after its end within which a node that it hit has what the contract says, and follows it."""
    cuts_off: bool = True
    """While it lasts, its target may not know, or not do, what the contract says."""
    breaks_tunnels: bool = False
    """The target's own tunnels suffer; those of all others must not."""
    changes: bool = True
    """The registry can be changed while it lasts."""
    own_clock: bool = True
    """The target's clock is right: what ends by itself ends on time."""


_ANY, _DEVICE = "abcd", "cd"
_AUDIT: Final = 15.0
"""Seconds: peers are compared every five here, addresses and routes every ten."""
_AGAIN: Final = 45.0
"""Seconds: silence is noticed within 6 to 30, and a failed endpoint is left alone for at most 15."""

KINDS: Final = (
    Kind("nothing at all", _ANY, (0.5, 2), 2, cuts_off=False),
    # -- processes
    Kind("daemon killed", _ANY, (0, 3), 10),
    Kind("daemon suspended", _ANY, (0.2, 8), 10),
    Kind("wireguard-go killed", _DEVICE, (0, 2), 15, breaks_tunnels=True),
    Kind("wireguard-go suspended", _DEVICE, (0.2, 5), 15, breaks_tunnels=True),
    Kind("both killed", _DEVICE, (0, 3), 15, breaks_tunnels=True),
    Kind("anvil killed", EVERYWHERE, (0, 5), _AGAIN, changes=False),
    Kind("anvil suspended", EVERYWHERE, (0.5, 15), _AGAIN, changes=False),
    Kind("relay killed", "d", (0, 5), 30, cuts_off=False, breaks_tunnels=True),
    # -- what endpoints do; each to the endpoint in use, or to all that the node has
    Kind("rpc stalls", _ANY, (1, 20), _AGAIN),
    Kind("rpc truncates", _ANY, (1, 10), _AGAIN),
    Kind("rpc floods", _ANY, (1, 10), _AGAIN),
    Kind("rpc rate-limits", _ANY, (1, 10), _AGAIN),
    Kind("rpc answers HTML", _ANY, (1, 10), _AGAIN),
    Kind("rpc answers noise", _ANY, (1, 10), _AGAIN),
    Kind("rpc goes back in time", _ANY, (1, 20), _AGAIN),
    Kind("rpc serves another chain", _ANY, (1, 10), _AGAIN + 60),
    Kind("rpc refuses", _ANY, (1, 10), _AGAIN),
    # -- the chain itself
    Kind("reorg", EVERYWHERE, (0, 1), 10, cuts_off=False),
    Kind("anvil wakes up older", EVERYWHERE, (0, 2), _AGAIN, changes=False),
    # -- the machine
    Kind("disk full", _ANY, (1, 8), 10, cuts_off=False),
    Kind("store corrupted", _ANY, (0, 1), 15),
    Kind("clock jumps", _ANY, (2, 8), 15, cuts_off=False, own_clock=False),
    # -- behind the daemon's back
    Kind("wg removes a peer", _DEVICE, (0, 1), _AUDIT, breaks_tunnels=True),
    Kind("wg adds a stranger", _DEVICE, (0, 1), _AUDIT),
    Kind("wg edits a peer", _DEVICE, (0, 1), _AUDIT, breaks_tunnels=True),
    Kind("wg changes key and port", _DEVICE, (0, 1), _AUDIT, breaks_tunnels=True),
    Kind("ip sets it down", _DEVICE, (0, 1), _AUDIT, breaks_tunnels=True),
    Kind("ip takes the address", _DEVICE, (0, 1), _AUDIT, breaks_tunnels=True),
    Kind("ip deletes it", _DEVICE, (0, 1), 15, breaks_tunnels=True),
)
BY_NAME: Final = {kind.name: kind for kind in KINDS}
SLOTS: Final = tuple(f"m{number}" for number in range(6))
"""Members that exist in the registry only, and come and go."""


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction."""

    what: What
    slot: str
    pause: float
    """Seconds before it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a round."""

    kind: Kind
    target: str
    strength: float
    """In [0, 1): how deep, how far, how many; each fault has its own meaning of it."""


@dataclass(frozen=True, slots=True)
class Round:
    """What happens from one moment at which all is well to the next."""

    number: int
    faults: tuple[Fault, ...]
    hold: float
    changes: tuple[Change, ...]

    @property
    def name(self) -> str:
        """Its faults."""
        return " + ".join(fault.kind.name for fault in self.faults)


def rounds(seed: int, pace: float = 1.0, kinds: Sequence[Kind] = KINDS) -> Iterator[Round]:
    """The rounds of a seed, without end; ``pace`` shortens what a fault lasts."""
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
    """Two faults hit two nodes, so that it is known what each did; else the second waits for its turn."""
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
