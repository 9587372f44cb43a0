"""Questions to endpoints about our blocks, their replies, and the comparison with the registry."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from dstack_vpn.core.chain.agreement import Agreement, Revision
from dstack_vpn.core.chain.contract import ContractState, Hash
from dstack_vpn.core.chain.events import ContractRead, Reading, TokenState
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry, read_over
from dstack_vpn.core.model import BlockRef, Cidr, Malformed, TokenId
from dstack_vpn.core.wireguard.keys import PublicKey

AGREED: Final = 60.0
"""Seconds after which endpoints that follow one chain agree on a block, even after a reorg."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question to an endpoint."""

    at: BlockRef
    """A block of our chain."""
    tokens: Sequence[TokenId]
    """The tokens to read after that block; with `whole`, the known ones, if it cannot enumerate."""
    whole: bool = False
    """Ask for the head and all tokens, at the endpoint's head if that is newer: a resync."""
    exact: bool = False
    """Ask for all tokens after our block, if the endpoint has it, as the followed one should."""
    earlier: tuple[int, str] | None = None
    """The height and hash of our tip of `AGREED` ago."""
    contract: bool = False
    """Also read the state of the contract itself; with `whole` it is always read."""
    policy: Hash | None = None
    """The hash of our policy: the text of another one is read as well."""
    logs_from: int = 0
    """If it cannot enumerate: also read the tokens that the logs from this block on name."""
    agreed: Agreement | None = None
    """With `whole`: the endpoint's last full reading, if it agreed with what we still hold."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply of an endpoint to a question about a block of ours."""

    endpoint: str
    hash: str | None
    """The hash of its block at that height; None if it has no such block (yet)."""
    at: BlockRef
    """The block after which `observed` was read: ours, or its head if that is newer."""
    observed: Sequence[TokenState] = ()
    """The tokens' states; a token that does not exist is included, without a node."""
    later: Sequence[TokenState] = ()
    """The same tokens at its head, if that is newer: a token that is out by then is not granted."""
    head: int | None = None
    """The height of its latest block, if the question asked for it."""
    has_earlier: bool | None = None
    """True if it has our earlier block, False if it has another at that height, None if neither."""
    contract: ContractState | None = None
    """The state of the contract itself, if the question asked for it and there is one."""
    revision: Revision | None = None
    """The contract's revision after the block ``at``, if all tokens were read and there is one."""
    repeats: int = 0
    """The resyncs since `observed` was read, if the revision is still the same."""

    @property
    def readings(self) -> list[Reading]:
        """Return all that was read after `at`."""
        contract = [] if self.contract is None else [ContractRead(self.contract)]
        return [*contract, *self.observed]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A reply, compared with the registry."""

    endpoint: str
    height: int
    """The height of the block whose state it describes."""
    same: frozenset[TokenId]
    differs: Mapping[TokenId, Node | None]
    """The endpoint's state of each token that differs from ours."""
    on_our_chain: bool = True
    """True if it has our block; else it lags or is on a fork, and its grants do not count."""
    definitive: bool = True
    """True if it describes exactly our block; else a difference may stem from another block."""
    contract: ContractState | None = None
    """The state of the contract itself, if the endpoint was asked for it and there is one."""

    @classmethod
    def of(
        cls,
        reply: Reply,
        at: BlockRef,
        same: Collection[TokenId],
        differs: Mapping[TokenId, Node | None],
    ) -> Self:
        """Return the comparison of a reply to a question about ``at``."""
        ours = reply.hash == at.hash
        exact = ours and reply.at == at
        return cls(reply.endpoint, reply.at.number, frozenset(same), differs, ours, exact, reply.contract)

    def until(self, height: int, differs: Mapping[TokenId, Node | None]) -> tuple[Self, Self]:
        """Split the tokens that differ at a later block off into a second comparison."""
        still = replace(self, same=self.same - differs.keys())
        later = replace(self, height=height, same=frozenset(), differs=differs, definitive=False)
        return still, replace(later, contract=None)


def in_force(node: Node | None) -> bool:
    """Return whether a token is a member's, regardless of expiry and of other tokens' claims."""
    return (
        node is not None
        and node.active
        and isinstance(node.node_id, str)
        and isinstance(node.public_key, PublicKey)
        and node.public_key != node.suspended_key
    )


def covers(held: Node | None, asked: Node) -> bool:
    """Return whether ``held`` grants at least the access of ``asked``: same member, same key."""
    return held is asked or (
        held is not None and in_force(held) and is_same_member(held, asked) and allows(held, asked)
    )


def compare(
    ours: Registry, observed: Iterable[TokenState]
) -> tuple[set[TokenId], dict[TokenId, Node | None]]:
    """Return the tokens that equal ours, and the observed state of the others."""
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
    """Return whether both have the same owner, key, node id and gateway.

    A false gateway would get a member's packets, so it is confirmed like a key.
    """
    ours = (one.public_key, one.owner, one.node_id, one.via)
    return ours == (other.public_key, other.owner, other.node_id, other.via)


def allows(held: Node, asked: Node) -> bool:
    """Return whether ``held`` has at least the rights of ``asked``: expiry, tags and routes.

    A route inside of a wider one is another route.
    """
    lasts = held.expires_at == 0 or 0 < asked.expires_at <= held.expires_at
    return lasts and not asked.tags & ~held.tags and set(routes_of(asked)) <= set(routes_of(held))


def narrowed(node: Node, by: Node) -> Node:
    """Return ``node`` with only those rights that ``by`` has as well."""
    routes = tuple(route for route in routes_of(node) if route in routes_of(by))
    ends = min((x.expires_at for x in (node, by) if x.expires_at), default=0)
    return replace(node, expires_at=ends, tags=node.tags & by.tags, routes=routes)


def routes_of(node: Node) -> tuple[Cidr, ...]:
    """Return the networks behind a node; malformed ones grant nothing."""
    return () if isinstance(node.routes, Malformed) else node.routes


def judge_blocks(
    needed: int, replies: Collection[Reply], earlier: int | None, claims: Mapping[str, int]
) -> Mapping[str, str]:
    """Return the endpoints with invented blocks, with the reason; empty unless k agree.

    The question named our block at the height ``earlier``, our tip of `AGREED` ago. ``claims`` are
    heights that endpoints reported long ago and that we have not reached. An endpoint that lags
    contradicts no other; k that lag for so long contradict the one whose block they do not reach.
    """
    contradicted: dict[str, str] = {}
    having, without, below = _groups_of(replies, earlier)
    if len(having) >= needed > len(without):
        contradicted |= dict.fromkeys(without, "it has another block than the others had a while ago")
    elif len(without) + len(below) >= needed > len(having):
        contradicted |= dict.fromkeys(having, "its blocks are not those of the others")
    for name, height in claims.items():
        if sum(x.endpoint != name and _is_below(x, height) for x in replies) >= needed:
            contradicted.setdefault(
                name, f"no other endpoint has the block {height} that it showed a while ago"
            )
    return contradicted


def lacking(needed: int, replies: Collection[Reply], earlier: int | None) -> Collection[str]:
    """Return the endpoints without our earlier block, if they are k and fewer than k have it.

    Our block is then invented.
    """
    having, without, below = _groups_of(replies, earlier)
    return {*without, *below} if len(without) + len(below) >= needed > len(having) else ()


def _groups_of(replies: Collection[Reply], earlier: int | None) -> tuple[list[str], list[str], list[str]]:
    """Return the endpoints with our block at that height, with another one, and below it."""
    having = [x.endpoint for x in replies if x.has_earlier is True]
    without = [x.endpoint for x in replies if x.has_earlier is False]
    lagging = [x for x in replies if x.has_earlier is None and earlier is not None]
    return having, without, [x.endpoint for x in lagging if _is_below(x, earlier or 0)]


def _is_below(reply: Reply, height: int) -> bool:
    return reply.head is not None and reply.head < height
