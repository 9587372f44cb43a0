"""What other endpoints are asked about our blocks, what they say, and how that compares with what we hold."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from dstack_vpn.core.events import Observed
from dstack_vpn.core.keys import PublicKey
from dstack_vpn.core.model import BlockRef, TokenId
from dstack_vpn.core.node import Node
from dstack_vpn.core.registry import Registry, read_over


@dataclass(frozen=True, slots=True)
class Question:
    """What another endpoint is asked."""

    at: BlockRef
    """A block that we stand on."""
    tokens: Sequence[TokenId]
    """Whose state after that block is wanted; with `whole` those that we know, where it can't enumerate."""
    whole: bool = False
    """Ask for its head and for everything, as of its own head where that is newer: an audit."""
    earlier: tuple[int, str] | None = None
    """Height and hash of the block that we stood on at the audit before."""
    logs_from: int = 0
    """Where it can't enumerate: tokens named by the logs from this block on are wanted as well."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What another endpoint says when it is asked about a block of ours."""

    endpoint: str
    hash: str | None
    """Its block's hash at that height; None where it has no such block (yet)."""
    at: BlockRef
    """The block that `observed` is the state after: ours, or its own head where that is newer."""
    observed: Sequence[Observed] = ()
    """The tokens' states; a token that does not exist is there, too, without a node."""
    head: int | None = None
    """Its latest block's height, where it was asked for that."""
    has_earlier: bool | None = None
    """Whether it has the block that we stood on at the audit before; None where it was not asked."""


@dataclass(frozen=True, slots=True)
class Word:
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
        statement: Statement,
        at: BlockRef,
        same: Collection[TokenId],
        differs: Mapping[TokenId, Node | None],
    ) -> Self:
        """What was said when asked about ``at``."""
        ours = statement.hash == at.hash
        exact = ours and statement.at == at
        return cls(statement.endpoint, statement.at.number, frozenset(same), differs, ours, exact)


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


def compare(ours: Registry, observed: Iterable[Observed]) -> tuple[set[TokenId], dict[TokenId, Node | None]]:
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
    needed: int,
    leader: str,
    tip: int,
    statements: Collection[Statement],
    ahead: Mapping[str, int],
) -> Mapping[str, str]:
    """Who withholds blocks or makes some up, and how; empty while no k agree.

    Asked an audit later, every endpoint must have the block that we stood on at the audit before, and we must
    have got as far as each of them had been then (``ahead``: their heights, by endpoint).
    """
    asked = [x for x in statements if x.has_earlier is not None]
    without = [x.endpoint for x in asked if not x.has_earlier]
    having = 1 + len(asked) - len(without)
    if having >= needed > len(without):
        liars = dict.fromkeys(without, "it lacks a block that the others had an audit ago")
    elif len(without) >= needed > having:
        return {leader: "its blocks are not those of the others"}
    else:
        liars = {}
    heads = {x.endpoint: x.head for x in statements if x.head is not None}
    for name, height in ahead.items():
        if height <= tip or name not in heads:
            continue
        as_far = [other for other, head in heads.items() if head >= height]
        if len(as_far) >= needed:
            return {leader: f"it has not got to block {height}, where the others were an audit ago"}
        if 1 + len(heads) - len(as_far) >= needed:
            liars[name] = f"nobody else has got to block {height}, where it was an audit ago"
    return liars
