"""Publication of changes: one by one, or many at once as one event."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from dstack_vpn.core.access.plan import Plan, Step
from dstack_vpn.core.chain.commands import Advanced
from dstack_vpn.core.chain.contract import Policy, tag_texts
from dstack_vpn.core.chain.events import (
    InvitationCancelled,
    InvitationRedeemed,
    LoggedEvent,
    OwnerKeyUpdated,
    OwnerOffered,
    OwnerUpdated,
    PauseUpdated,
    PolicyRead,
    PolicyUpdated,
    Reading,
    RegistryEvent,
    RoleUpdated,
    RoutesUpdated,
    TagDefined,
    TagsUpdated,
    token_of,
)
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import Address, Malformed, RemovePeer, TokenId
from dstack_vpn.core.observe.event import Event
from dstack_vpn.core.observe.events import (
    InvitationUsed,
    MintingPaused,
    PeerRemoved,
    PeersChanged,
    PeerSet,
    PolicyChanged,
    PolicyTextRead,
    Reorged,
    RoleChanged,
    RoleName,
    TagNamed,
    TokenChanged,
    TokensChanged,
)
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.ports import Publish

ONE_BY_ONE: Final = 50
"""The limit of changes that are published one by one; more at once become one event."""

_EVENTS: Final = {
    "Granted": "granted",
    "Revoked": "revoked",
    "Transferred": "transferred",
    "KeyUpdated": "key updated",
    "OwnerKeyUpdated": "key updated",
    "EndpointUpdated": "endpoint updated",
    "ExpiryUpdated": "expiry updated",
    "TagsUpdated": "tags updated",
    "RoutesUpdated": "routes updated",
}
"""The published names of the registry's events."""


def publish_plan(
    publish: Publish,
    steps: Plan,
    *,
    tokens: Mapping[PublicKey, TokenId | None],
    registry: Registry,
    block: int | None,
    latency: float | None,
    causes: Mapping[TokenId, str],
) -> None:
    """Publish the steps that the device has acknowledged.

    ``tokens`` has the token that each peer stands for, or stood for. ``latency`` is in seconds, and
    None for a repair. ``causes`` has the last event of each token.
    """
    if len(steps.steps) > ONE_BY_ONE:
        publish(PeersChanged(len(steps.others), len(steps.removals), block, latency))
        return
    for step in steps.steps:
        token = tokens[step.change.public_key]
        node = None if token is None else registry.get(token)
        cause = None if token is None else causes.get(token)
        publish(replace(_peer(step, token, node, block, latency), cause=cause))


def publish_advanced(publish: Publish, advanced: Advanced, registry: Registry) -> None:
    """Publish the events that the chain has added, and those that a reorg has undone."""
    if advanced.reorg_depth:
        dropped, added = len(advanced.dropped), len(advanced.added)
        publish(Reorged(advanced.reorg_depth, dropped, added, advanced.tip.number))
    # A state that was read is not an event, although the timeline may hold it.
    undone = [x for x in advanced.dropped if not isinstance(x.event, Reading)]
    new = [x for x in advanced.added if not isinstance(x.event, Reading)]
    if len(undone) + len(new) > ONE_BY_ONE:
        publish(TokensChanged(len(new), len(undone), advanced.tip.number))
        return
    for each in undone:
        publish(_event(each, registry, undone=True))
    for each in new:
        publish(_event(each, registry, undone=False))
    for each in advanced.added:
        if isinstance(each.event, PolicyRead):
            publish(_policy_read(each.event.policy, each.block_number))


def _peer(
    step: Step, token: TokenId | None, node: Node | None, block: int | None, latency: float | None
) -> PeerSet | PeerRemoved:
    key, (name, owner) = step.change.public_key, _identity(node)
    if isinstance(step.change, RemovePeer):
        return PeerRemoved(key, token, name, owner, step.reason, block, latency)
    added = isinstance(step.inverse, RemovePeer)
    return PeerSet(key, token, name, owner, step.reason, added, block, latency)


def _policy_read(policy: Policy | None, block: int) -> PolicyTextRead:
    if policy is None:
        return PolicyTextRead(None, 0, block)
    return PolicyTextRead(policy.hash, len((policy.text or "").encode()), block)


def _event(logged: LoggedEvent, registry: Registry, *, undone: bool) -> Event:
    at = logged.block_number, logged.log_index, undone
    match logged.event:
        case TagDefined(index, name):
            return TagNamed(index, name, *at)
        case PolicyUpdated(hash_):
            return PolicyChanged(hash_, *at)
        case PauseUpdated(paused):
            return MintingPaused(paused, *at)
        case InvitationRedeemed(hash_, token):
            return InvitationUsed("redeemed", hash_, token, _identity(registry.get(token))[0], *at)
        case InvitationCancelled(hash_):
            return InvitationUsed("cancelled", hash_, None, None, *at)
        case RoleUpdated() | OwnerOffered() | OwnerUpdated() as event:
            return RoleChanged(*_role(event), *at)
        case _:
            return _token(logged, registry, undone=undone)


def _role(event: RoleUpdated | OwnerOffered | OwnerUpdated) -> tuple[RoleName, Address | None, bool]:
    match event:
        case RoleUpdated(role, account, held):
            return role, account, held
        case OwnerOffered(offered):
            return "pending owner", offered, offered is not None
        case OwnerUpdated(account):
            return "owner", account, True


def _token(logged: LoggedEvent, registry: Registry, *, undone: bool) -> TokenChanged:
    event, token = logged.event, token_of(logged.event)
    name, owner = (None, None) if token is None else _identity(registry.get(token))
    if isinstance(event, OwnerKeyUpdated):
        owner = event.owner
    kind, detail = _EVENTS[type(event).__name__], _detail(event, registry)
    return TokenChanged(kind, token, name, owner, logged.block_number, logged.log_index, undone, detail)


def _detail(event: RegistryEvent, registry: Registry) -> str | None:
    match event:
        case TagsUpdated(_, mask):
            return ", ".join(tag_texts(registry.contract.tags_of(mask)))
        case RoutesUpdated(_, routes):
            return routes.problem if isinstance(routes, Malformed) else ", ".join(routes)
        case _:
            return None


def _identity(node: Node | None) -> tuple[str | None, str | None]:
    """Return a token's node id, if it is valid, and its owner; None for either if it is missing."""
    if node is None:
        return None, None
    return node.node_id if isinstance(node.node_id, str) else None, node.owner
