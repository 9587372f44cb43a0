"""The registration of many nodes: the wanted nodes, compared with a registry.

A plan is a function of the wanted nodes and of the registry. A run that was interrupted is
therefore continued by another run: a node that is registered with equal data is left unchanged, and
a registered node that lacks its tags, routes or expiry gets them. A node that is registered with
other data is a problem, and nothing of the plan is carried out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.chain.tagging import mask_of
from dstack_vpn.core.model import Address, Cidr, TokenId
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

_T = TypeVar("_T")

GAS_LIMIT: Final = 13_000_000
"""Gas of one transaction. EIP-7825 allows 16,777,216, and an estimate gets a margin of a fifth."""
_MINT: Final = 196_000
"""Upper bounds of gas in a batch: a mint to an account without a node, without its texts."""
_SLOT: Final = 23_000
"""A new word of storage, with its part of the calldata."""
_TAGS: Final = 36_000
_EXPIRY: Final = 24_000
_ROUTES: Final = 38_000


def mint_gas(node_id: str, token_uri: str) -> int:
    """Return an upper bound of the gas to register a node in a batch."""
    return _MINT + _text_gas(len(node_id)) + _text_gas(len(token_uri))


def _text_gas(length: int) -> int:
    """Return the gas to store a text: in one word up to 31 bytes, else behind its length."""
    if length < 32:
        return _SLOT if length else 0
    return _SLOT * (1 + -(-length // 32))


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A node to be registered."""

    node_id: str
    holder: Address
    key: PublicKey
    endpoint: PeerEndpoint | None = None
    """Stored in the token's URI."""
    tags: tuple[str, ...] = ()
    routes: tuple[Cidr, ...] = ()
    expires_at: int = 0
    """The last Unix second of access; 0: no end."""


@dataclass(frozen=True, slots=True)
class Rights:
    """Rights that a registered node lacks; None: it has them."""

    tags: int | None
    """A bit mask."""
    routes: tuple[Cidr, ...] | None
    expires_at: int | None

    @property
    def gas(self) -> int:
        """An upper bound of the gas to set them."""
        routes = 0 if self.routes is None else _ROUTES + _SLOT * len(self.routes)
        tags = 0 if self.tags is None else _TAGS
        return tags + routes + (0 if self.expires_at is None else _EXPIRY)


@dataclass(frozen=True, slots=True)
class EnrolmentPlan:
    """The difference between the wanted nodes and a registry."""

    mints: tuple[Enrolment, ...]
    completions: tuple[tuple[TokenId, Rights], ...]
    """The rights that registered nodes lack."""
    unchanged: tuple[tuple[TokenId, str], ...]
    """Tokens and node ids that are registered with equal data."""
    problems: tuple[str, ...]
    """If there is one, nothing may be sent."""


def plan(
    wanted: Sequence[Enrolment], registry: Registry, tags: Sequence[str | None], time: int
) -> EnrolmentPlan:
    """Compare nodes with a registry, the names of its tags, and its time in Unix seconds."""
    mints, completions, unchanged, problems = [], [], [], []
    for each in wanted:
        try:
            missing = rights_of(each, tags)
        except FormatError as error:
            problems.append(f"{each.node_id}: {error}")
            continue
        found = _present(registry, each.node_id)
        if found is None:
            if each.expires_at and each.expires_at < time:
                problems.append(f"{each.node_id}: its access ended before the time of the chain")
            mints.append(each)
        elif (other := _differences(each, missing, found)) != "":
            problems.append(f"{each.node_id} is registered as token {found.token_id} with another {other}")
        elif (rest := _missing(missing, found)) is not None:
            completions.append((found.token_id, rest))
        else:
            unchanged.append((found.token_id, each.node_id))
    return EnrolmentPlan(tuple(mints), tuple(completions), tuple(unchanged), tuple(problems))


def rights_of(wanted: Enrolment, tags: Sequence[str | None]) -> Rights:
    """Return the rights of a new node; raises `FormatError` for a tag that is not defined."""
    mask = mask_of(wanted.tags, tags)
    return Rights(mask or None, wanted.routes or None, wanted.expires_at or None)


def _present(registry: Registry, node_id: str) -> Node | None:
    """Return the node with an id that is not revoked."""
    found = (registry.nodes[token] for token in registry.with_node_id(node_id))
    return next((node for node in found if node.active), None)


def _differences(wanted: Enrolment, rights: Rights, found: Node) -> str:
    """Return the fields that differ, except rights that the node lacks."""
    pairs = (
        ("holder", found.owner != wanted.holder),
        ("key", found.public_key != wanted.key),
        ("endpoint", found.uri_endpoint != wanted.endpoint),
        ("set of tags", found.tags not in {0, rights.tags or 0}),
        ("set of routes", found.routes not in ((), wanted.routes)),
        ("expiry", found.expires_at not in {0, wanted.expires_at}),
    )
    return ", ".join(name for name, differs in pairs if differs)


def _missing(rights: Rights, found: Node) -> Rights | None:
    rest = Rights(
        None if found.tags else rights.tags,
        None if found.routes else rights.routes,
        None if found.expires_at else rights.expires_at,
    )
    return rest if rest.gas else None


def pack(items: Iterable[tuple[int, _T]], limit: int = GAS_LIMIT) -> list[list[_T]]:
    """Divide items with their gas into batches, in order; an item above the limit is alone."""
    batches: list[list[_T]] = []
    used = 0
    for gas, item in items:
        if not batches or used + gas > limit:
            batches.append([])
            used = 0
        batches[-1].append(item)
        used += gas
    return batches
