"""Names for roles: the members that have a tag, in the order in which a client should try them.

    alive        bytes come back through the tunnel; also this node
    unjudged     nothing was sent to it lately
    silent       bytes were sent, and none came back

The members of the best state that some member has are the answer. While nothing is known, or if
no member answers, this is all of them: a client then learns more from a connection than from an
empty answer (docs/decisions/0039). Nearer members come first, and those without a measured round
trip last, by their token ids.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import nsmallest
from typing import Final, NamedTuple

from dstack_vpn.core.access.control import AccessControl, Reason
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import TokenId
from dstack_vpn.core.wireguard.keys import PublicKey

MOST: Final = 12
"""The limit of members in an answer: their IPv6 addresses fit into 512 bytes."""
LARGEST: Final = 1000
"""The limit of tokens of a role that are considered, by their ids. It bounds an answer's cost."""


class Standing(IntEnum):
    """The state of a member, the best first."""

    ALIVE = 0
    UNJUDGED = 1
    SILENT = 2


class Nearness(NamedTuple):
    """A member's state and distance."""

    standing: Standing
    round_trip: float | None = None
    """Seconds through the tunnel; None: unknown."""


OURSELVES: Final = Nearness(Standing.ALIVE, 0.0)
"""This node's own nearness."""


@dataclass(slots=True)
class RoleIndex:
    """The active tokens that have each tag, by the registry alone: access is not decided."""

    _of: Registry | None = field(default=None, init=False)
    _tokens: dict[int, list[TokenId]] = field(default_factory=dict, init=False)
    """By the number of the tag's bit."""

    def tokens(self, registry: Registry, bit: int) -> Sequence[TokenId]:
        """Return the tokens with a tag in ascending order, `LARGEST` at most."""
        if self._of is not registry:
            found: dict[int, list[TokenId]] = {}
            for token, node in registry.nodes.items():
                mask = node.tags if node.active else 0
                while mask:
                    lowest = mask & -mask
                    found.setdefault(lowest.bit_length() - 1, []).append(token)
                    mask ^= lowest
            self._tokens = {bit: nsmallest(LARGEST, tokens) for bit, tokens in found.items()}
            self._of = registry
        return self._tokens.get(bit, ())


def ranked(
    access: AccessControl, tokens: Sequence[TokenId], nearness: Callable[[PublicKey], Nearness]
) -> list[tuple[Nearness, Node]]:
    """Return tokens that have a key, the nearest first; no access is decided yet."""
    found = []
    for token in tokens:
        node = access.registry.nodes[token]
        if isinstance(key := node.public_key, PublicKey):
            near = OURSELVES if key == access.own_key else nearness(key)
            distance = math.inf if near.round_trip is None else near.round_trip
            found.append(((near.standing, distance, token), near, node))
    found.sort(key=lambda each: each[0])
    return [(near, node) for _, near, node in found]


def members(
    access: AccessControl, candidates: Sequence[tuple[Nearness, Node]], bit: int, now: float
) -> Iterator[Node]:
    """Yield the members of a role: of the best state that one of them has, in the given order.

    ``now`` is in Unix seconds.
    """
    best: Standing | None = None
    for near, node in candidates:
        if best is not None and near.standing > best:
            return
        decision = access.decide(node.token_id, now)
        if decision.tags >> bit & 1 and (decision.granted or decision.reason is Reason.OWN_KEY):
            best = near.standing
            yield node
