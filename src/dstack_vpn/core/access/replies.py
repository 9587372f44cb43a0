"""What other endpoints are asked about our blocks, what they say, and how that compares with what we hold."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from dstack_vpn.core.chain.events import TokenState
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry, read_over
from dstack_vpn.core.model import BlockRef, TokenId
from dstack_vpn.core.wireguard.keys import PublicKey

AGREED: Final = 60.0
"""Seconds after which endpoints that follow one chain agree on a block, whatever reorg there was."""


@dataclass(frozen=True, slots=True)
class Question:
    """What another endpoint is asked."""

    at: BlockRef
    """A block that we stand on."""
    tokens: Sequence[TokenId]
    """Whose state after that block is wanted; with `whole` those that we know, where it can't enumerate."""
    whole: bool = False
    """Ask for its head and for everything, as of its own head where that is newer: an audit."""
    exact: bool = False
    """Ask for everything after our very block, if the endpoint has it: the followed one should."""
    earlier: tuple[int, str] | None = None
    """Height and hash of a block that we stood on `AGREED` ago."""
    logs_from: int = 0
    """Where it can't enumerate: tokens named by the logs from this block on are wanted as well."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What another endpoint says when it is asked about a block of ours."""

    endpoint: str
    hash: str | None
    """Its block's hash at that height; None where it has no such block (yet)."""
    at: BlockRef
    """The block that `observed` is the state after: ours, or its own head where that is newer."""
    observed: Sequence[TokenState] = ()
    """The tokens' states; a token that does not exist is there, too, without a node."""
    later: Sequence[TokenState] = ()
    """The same tokens as of its own head, if that is newer: what is out by now is not to be granted."""
    head: int | None = None
    """Its latest block's height, where it was asked for that."""
    has_earlier: bool | None = None
    """Whether it has our earlier block: False if it has another at that height, None if it has none."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A statement, compared with what we hold."""

    endpoint: str
    height: int
    """Of the block whose state it describes."""
    same: frozenset[TokenId]
    differs: Mapping[TokenId, Node | None]
    """What it says of the tokens of which it says anything else than we do."""
    on_our_chain: bool = True
    """Whether it has our block; else it lags, or follows another fork: what it shows in says nothing."""
    definitive: bool = True
    """Whether it speaks of just our block; else what differs may be due to another block."""

    @classmethod
    def of(
        cls,
        statement: Reply,
        at: BlockRef,
        same: Collection[TokenId],
        differs: Mapping[TokenId, Node | None],
    ) -> Self:
        """What was said when asked about ``at``."""
        ours = statement.hash == at.hash
        exact = ours and statement.at == at
        return cls(statement.endpoint, statement.at.number, frozenset(same), differs, ours, exact)

    def until(self, height: int, differs: Mapping[TokenId, Node | None]) -> tuple[Self, Self]:
        """Split off what differs later: this word does not stand for that, and the other one says it."""
        still = replace(self, same=self.same - differs.keys())
        return still, replace(self, height=height, same=frozenset(), differs=differs, definitive=False)


def in_force(node: Node | None) -> bool:
    """Whether a token stands for a member at all, but for its expiry and for what others have of it."""
    return (
        node is not None
        and node.active
        and isinstance(node.node_id, str)
        and isinstance(node.public_key, PublicKey)
        and node.public_key != node.suspended_key
    )


def covers(held: Node | None, asked: Node) -> bool:
    """Whether access that ``held`` gives is at least that which ``asked`` gives: same member, same key."""
    return held is asked or (
        held is not None and in_force(held) and is_same_member(held, asked) and lasts(held, asked)
    )


def compare(
    ours: Registry, observed: Iterable[TokenState]
) -> tuple[set[TokenId], dict[TokenId, Node | None]]:
    """Which tokens are read as we hold them, and what the others are read to be."""
    same: set[TokenId] = set()
    differs: dict[TokenId, Node | None] = {}
    for x in observed:
        old = ours.get(x.token_id)
        new = read_over(old, x.node)
        if new == old:
            same.add(x.token_id)
        else:
            differs[x.token_id] = new
    return same, differs


def is_same_member(one: Node, other: Node) -> bool:
    """Whether both speak of one holder with one key and one name."""
    return (one.public_key, one.owner, one.node_id) == (other.public_key, other.owner, other.node_id)


def lasts(held: Node, asked: Node) -> bool:
    """Whether ``held`` ends no sooner than ``asked``; 0 is no end."""
    return held.expires_at == 0 or 0 < asked.expires_at <= held.expires_at


def judge_blocks(
    needed: int, statements: Collection[Reply], earlier: int | None, claims: Mapping[str, int]
) -> Mapping[str, str]:
    """Return the endpoints that make blocks up, and how; empty while no k agree.

    The endpoints were asked for a block of ours at the height ``earlier``, on which we stood `AGREED` ago.
    ``claims`` are heights that endpoints have shown long ago and that we have not reached. An endpoint that
    lags contradicts nobody; k that lag for so long contradict the one whose block they don't get to.
    """
    contradicted: dict[str, str] = {}
    having, without, below = _camps_of(statements, earlier)
    if len(having) >= needed > len(without):
        contradicted |= dict.fromkeys(without, "it has another block than the others had a while ago")
    elif len(without) + len(below) >= needed > len(having):
        contradicted |= dict.fromkeys(having, "its blocks are not those of the others")
    for name, height in claims.items():
        if sum(x.endpoint != name and _is_below(x, height) for x in statements) >= needed:
            contradicted.setdefault(
                name, f"no other endpoint has the block {height} that it showed a while ago"
            )
    return contradicted


def lacking(needed: int, statements: Collection[Reply], earlier: int | None) -> Collection[str]:
    """Return who has not got our earlier block, if k have not, and no k have: our own chain is made up."""
    having, without, below = _camps_of(statements, earlier)
    return {*without, *below} if len(without) + len(below) >= needed > len(having) else ()


def _camps_of(statements: Collection[Reply], earlier: int | None) -> tuple[list[str], list[str], list[str]]:
    """Return who has our block at that height, who has another one, and who has not got there."""
    having = [x.endpoint for x in statements if x.has_earlier is True]
    without = [x.endpoint for x in statements if x.has_earlier is False]
    lagging = [x for x in statements if x.has_earlier is None and earlier is not None]
    return having, without, [x.endpoint for x in lagging if _is_below(x, earlier or 0)]


def _is_below(statement: Reply, height: int) -> bool:
    return statement.head is not None and statement.head < height
