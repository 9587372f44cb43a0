"""The peer registry: every token of the contract, as an immutable state.

`apply` folds one event into a new state and returns the change; `revert` undoes such a change:

    state', change = apply(state, event, position)
    revert(state', change) == state

The state holds one mapping (tokens by id), the indexes for lookups, and the state of the contract
itself. A state is never altered after it was made. A copy of a mapping of 10,000 tokens takes about
50 us, so persistent data structures are not needed.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.contract_fold import contract_after
from dstack_vpn.core.chain.events import (
    ContractEvent,
    EndpointUpdated,
    ExpiryUpdated,
    Granted,
    KeyUpdated,
    LoggedEvent,
    OwnerKeyUpdated,
    Reading,
    RegistryEvent,
    Revoked,
    RoutesUpdated,
    TagsUpdated,
    TokenState,
    Transferred,
)
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import GENESIS, Malformed, Position, TokenId
from dstack_vpn.core.wireguard.keys import PublicKey

_K = TypeVar("_K")
_NONE: frozenset[TokenId] = frozenset()


@dataclass(frozen=True, slots=True)
class NodeChange:
    """A token before and after an event; None if it does not exist."""

    token_id: TokenId
    old: Node | None
    new: Node | None


@dataclass(frozen=True, slots=True)
class ContractChange:
    """The contract's own state before and after an event."""

    old: ContractState
    new: ContractState


Change: TypeAlias = tuple[NodeChange | ContractChange, ...]
"""The change that one event made; empty if the event made none."""


@dataclass(frozen=True, slots=True)
class Registry:
    """All tokens at one position of the chain; built with `of`, changed with `apply`."""

    nodes: dict[TokenId, Node] = field(default_factory=dict)
    contract: ContractState = field(default_factory=ContractState)
    """The state of the contract itself."""
    by_key: dict[PublicKey, frozenset[TokenId]] = field(default_factory=dict, compare=False, repr=False)
    by_node_id: dict[str, frozenset[TokenId]] = field(default_factory=dict, compare=False, repr=False)
    by_owner: dict[str, frozenset[TokenId]] = field(default_factory=dict, compare=False, repr=False)
    by_via: dict[str, frozenset[TokenId]] = field(default_factory=dict, compare=False, repr=False)
    """Plain clients by the node id of their gateway."""

    @classmethod
    def of(cls, nodes: Iterable[Node], contract: ContractState | None = None) -> "Registry":
        """Return the registry of exactly these nodes."""
        registry = cls(contract=contract or ContractState())
        _put(registry, [NodeChange(node.token_id, None, node) for node in nodes])
        return registry

    def get(self, token: TokenId) -> Node | None:
        """Return the node of a token, with or without access, or None."""
        return self.nodes.get(token)

    def with_key(self, key: PublicKey) -> frozenset[TokenId]:
        """Return every token that has this key, with or without access."""
        return self.by_key.get(key, _NONE)

    def with_node_id(self, node_id: str) -> frozenset[TokenId]:
        """Return every token of this node id, with or without access."""
        return self.by_node_id.get(node_id, _NONE)

    def with_owner(self, owner: str) -> frozenset[TokenId]:
        """Return every token of this account."""
        return self.by_owner.get(owner, _NONE)

    def with_via(self, node_id: str) -> frozenset[TokenId]:
        """Return every token that names this node id as its gateway."""
        return self.by_via.get(node_id, _NONE)

    def draft(self) -> "Registry":
        """Return a copy that may be written to until it is shared."""
        return replace(
            self,
            nodes=dict(self.nodes),
            by_key=dict(self.by_key),
            by_node_id=dict(self.by_node_id),
            by_owner=dict(self.by_owner),
            by_via=dict(self.by_via),
        )


def tokens_of(change: Change) -> list[TokenId]:
    """Return the tokens that a change concerns."""
    return [each.token_id for each in change if isinstance(each, NodeChange)]


def apply(state: Registry, event: RegistryEvent, at: Position) -> tuple[Registry, Change]:
    """Fold one event at the position ``at`` into a new state.

    The change is empty if nothing differs.
    """
    state, changes = apply_all(state, [(at, event)])
    return state, changes[0]


def apply_all(
    state: Registry, events: Iterable[tuple[Position, RegistryEvent]]
) -> tuple[Registry, list[Change]]:
    """Fold events, in their order, at the cost of one copy; returns one change for each."""
    draft = state.draft()
    changes: list[Change] = []
    for at, event in events:
        change = _change(draft, event, at)
        draft = _put(draft, change)
        changes.append(change)
    return (draft if any(changes) else state), changes


def _change(state: Registry, event: RegistryEvent, at: Position) -> Change:
    if isinstance(event, ContractEvent):
        contract = contract_after(state.contract, event, at)
        return () if contract == state.contract else (ContractChange(state.contract, contract),)
    return tuple(
        NodeChange(token, old, new)
        for token, new in _effects(state, event, at)
        if (old := state.nodes.get(token)) != new
    )


def registry_of(events: Iterable[LoggedEvent]) -> Registry:
    """Return the registry after all of these events, which are in the chain's order."""
    placed = ((Position(each.block_number, each.log_index), each.event) for each in events)
    return apply_all(Registry(), placed)[0]


def revert(state: Registry, *changes: Change) -> Registry:
    """Undo changes that `apply` returned, exactly; given in the order in which they were made."""
    draft = state.draft()
    for change in reversed(changes):
        draft = _put(draft, map(_inverse, change))
    return draft


def _inverse(change: NodeChange | ContractChange) -> NodeChange | ContractChange:
    if isinstance(change, ContractChange):
        return ContractChange(change.new, change.old)
    return NodeChange(change.token_id, change.new, change.old)


def contradicts(state: Registry, observed: Reading) -> bool:
    """Return whether a state, as read, differs from ours."""
    if not isinstance(observed, TokenState):
        return contract_after(state.contract, observed, GENESIS) != state.contract
    old = state.get(observed.token_id)
    return read_over(old, observed.node) != old


_Update: TypeAlias = (
    Revoked | Transferred | KeyUpdated | EndpointUpdated | ExpiryUpdated | TagsUpdated | RoutesUpdated
)
"""The events that change one token that exists."""

_TokenEvent: TypeAlias = Granted | TokenState | OwnerKeyUpdated | _Update


def _effects(state: Registry, event: _TokenEvent, at: Position) -> list[tuple[TokenId, Node | None]]:
    """Return the tokens that an event affects, with their nodes after it."""
    match event:
        case Granted(token, owner, node_id, key):
            return [(token, _granted(state.nodes.get(token), Node(token, owner, node_id, key, key_since=at)))]
        case TokenState(token, node):
            return [(token, read_over(state.nodes.get(token), node))]
        case OwnerKeyUpdated(owner, key):
            return [(token, _rekeyed(state.nodes[token], key, at)) for token in state.with_owner(owner)]
        case _:
            node = state.nodes.get(event.token_id)
            # A token without a grant here is not a member, or its grant comes later.
            return [] if node is None else [(event.token_id, _updated(node, event, at))]


def _updated(node: Node, event: _Update, at: Position) -> Node:
    match event:
        case Revoked():
            return replace(node, active=False)
        case Transferred(_, recipient):
            return _transferred(node, recipient)
        case KeyUpdated(_, key):
            return _rekeyed(node, key, at)
        case EndpointUpdated(_, endpoint):
            return replace(node, endpoint=endpoint)
        case ExpiryUpdated(_, expires_at):
            return replace(node, expires_at=expires_at)
        case TagsUpdated(_, tags):
            return replace(node, tags=tags)
        case RoutesUpdated(_, routes):
            return replace(node, routes=routes)


def _granted(old: Node | None, new: Node) -> Node:
    """Return the node after a grant, which starts over.

    The holder's token URI endpoint and key age, which the log does not carry, are kept if the
    holder is the same.
    """
    if old is None or old.owner != new.owner:
        return new
    since = old.key_since if old.active and old.public_key == new.public_key else new.key_since
    return replace(new, uri_endpoint=old.uri_endpoint, key_since=since)


def _transferred(node: Node, recipient: str) -> Node:
    """Return the node after a transfer: without the old holder's rights, routes and endpoint.

    The old holder's key is suspended. One transfer may emit two logs: the second changes nothing.
    """
    if node.owner == recipient:
        return node
    key = node.public_key if isinstance(node.public_key, PublicKey) else None
    suspended = key or node.suspended_key
    return replace(node, owner=recipient, endpoint=None, tags=0, routes=(), suspended_key=suspended)


def _rekeyed(node: Node, key: PublicKey | Malformed | None, at: Position) -> Node:
    if key == node.public_key and node.suspended_key is None:
        return node
    return replace(node, public_key=key, suspended_key=None, key_since=at)


def read_over(old: Node | None, new: Node | None) -> Node | None:
    """Return a state as read, completed with its history from the events before it.

    A state that is read does not contain its history: the age of the key, and a suspended key.
    """
    if old is None or new is None:
        return new
    if new.public_key is None and old.suspended_key is not None and new.owner == old.owner:
        # The contract clears a key that we only suspend; it lets a decision name the transfer.
        return replace(
            new, public_key=old.public_key, suspended_key=old.suspended_key, key_since=old.key_since
        )
    if new.public_key != old.public_key:
        return new
    if new.owner != old.owner:
        # A transfer whose log we have not seen: the unchanged key is the previous owner's.
        key = new.public_key if isinstance(new.public_key, PublicKey) else None
        return replace(new, suspended_key=key, key_since=old.key_since)
    suspended = old.suspended_key if new.suspended_key is None else new.suspended_key
    since = old.key_since if old.active or not new.active else new.key_since
    return replace(new, suspended_key=suspended, key_since=since)


# -- indexes ---------------------------------------------------------------------------------------


def _key_of(node: Node) -> PublicKey | None:
    return node.public_key if isinstance(node.public_key, PublicKey) else None


def _node_id_of(node: Node) -> str | None:
    return node.node_id if isinstance(node.node_id, str) else None


def _owner_of(node: Node) -> str:
    return node.owner


def _via_of(node: Node) -> str | None:
    return node.via


def _put(draft: Registry, changes: Iterable[NodeChange | ContractChange]) -> Registry:
    """Write changes into a draft, and return it; the only function that alters a state."""
    for change in changes:
        if isinstance(change, ContractChange):
            draft = replace(draft, contract=change.new)
            continue
        _reindex(draft.by_key, change, _key_of)
        _reindex(draft.by_node_id, change, _node_id_of)
        _reindex(draft.by_owner, change, _owner_of)
        _reindex(draft.by_via, change, _via_of)
        if change.new is None:
            draft.nodes.pop(change.token_id, None)
        else:
            draft.nodes[change.token_id] = change.new
    return draft


def _reindex(
    index: dict[_K, frozenset[TokenId]], change: NodeChange, of: Callable[[Node], _K | None]
) -> None:
    before = None if change.old is None else of(change.old)
    after = None if change.new is None else of(change.new)
    if before == after:
        return
    if before is not None:
        rest = index[before] - {change.token_id}
        if rest:
            index[before] = rest
        else:
            del index[before]
    if after is not None:
        index[after] = index.get(after, _NONE) | {change.token_id}
