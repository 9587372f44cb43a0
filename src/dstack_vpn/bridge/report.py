"""Says what has come about: in the log and to the journal, one by one, or in one word for many at once."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

import structlog

from dstack_vpn.core.chain_happenings import Reorged, TokenChanged, TokensChanged
from dstack_vpn.core.commands import Advanced
from dstack_vpn.core.events import LoggedEvent, Observed, OwnerKeyUpdated
from dstack_vpn.core.happenings import PeerRemoved, PeersChanged, PeerSet
from dstack_vpn.core.keys import PublicKey
from dstack_vpn.core.model import RemovePeer, TokenId
from dstack_vpn.core.node import Node
from dstack_vpn.core.plan import Plan, Step
from dstack_vpn.core.registry import Registry
from dstack_vpn.ports import Announce

_log = structlog.get_logger(component="device")

ONE_BY_ONE: Final = 50
"""Changes at once; more of them become one line."""

_EVENTS: Final = {
    "Granted": "granted",
    "Revoked": "revoked",
    "Transferred": "transferred",
    "KeyUpdated": "key updated",
    "OwnerKeyUpdated": "key updated",
    "EndpointUpdated": "endpoint updated",
    "ExpiryUpdated": "expiry updated",
}
"""What people call the registry's events."""


def report(
    announce: Announce,
    steps: Plan,
    *,
    tokens: Mapping[PublicKey, TokenId | None],
    registry: Registry,
    block: int | None,
    latency: float | None,
    causes: Mapping[TokenId, str],
) -> None:
    """Say what the device has acknowledged.

    ``tokens`` tells whose peers these are (or were); ``latency`` is in seconds, and None where no event was
    behind the change, but a repair; ``causes`` has the last event of each token.
    """
    common = {"block": block, "latency_ms": None if latency is None else round(latency * 1000, 3)}
    if len(steps.steps) > ONE_BY_ONE:
        _log.info("peers.changed", set=len(steps.others), removed=len(steps.removals), **common)
        announce(PeersChanged(len(steps.others), len(steps.removals), block, latency))
        return
    for step in steps.steps:
        key = step.change.public_key
        token = tokens[key]
        node = None if token is None else registry.get(token)
        cause = None if token is None else causes.get(token)
        _log.info(
            "peer.removed" if isinstance(step.change, RemovePeer) else "peer.set",
            peer=str(key),
            token=token,
            node=None if node is None else str(node.node_id),
            reason=step.reason,
            cause=cause,
            **common,
        )
        announce(replace(_peer(step, token, node, block, latency), cause=cause))


def tell_advanced(announce: Announce, advanced: Advanced, registry: Registry) -> list[TokenChanged]:
    """Announce what the chain has brought, and what it has taken back; returns what `log_advanced` logs."""
    if advanced.reorg_depth:
        dropped, added = len(advanced.dropped), len(advanced.added)
        announce(Reorged(advanced.reorg_depth, dropped, added, advanced.tip.number))
    # A state that was read is no event, however it got into the timeline.
    undone = [x for x in advanced.dropped if not isinstance(x.event, Observed)]
    added_ = [x for x in advanced.added if not isinstance(x.event, Observed)]
    if len(undone) + len(added_) > ONE_BY_ONE:
        announce(TokensChanged(len(added_), len(undone), advanced.tip.number))
        return []
    told = [_token(x, registry, undone=True) for x in undone]
    told += [_token(x, registry, undone=False) for x in added_]
    for each in told:
        announce(each)
    return told


def log_advanced(advanced: Advanced, told: Iterable[TokenChanged]) -> None:
    """Log what was announced."""
    for each in told:
        _log.info(
            "chain.event",
            component="chain",
            cause=each.cause,
            event_kind=each.event,
            token=each.token,
            undone=each.undone,
        )
    if advanced.reorg_depth:
        _log.warning(
            "chain.reorg",
            component="chain",
            depth=advanced.reorg_depth,
            dropped=len(advanced.dropped),
            added=len(advanced.added),
            block=advanced.tip.number,
        )


def _peer(
    step: Step, token: TokenId | None, node: Node | None, block: int | None, latency: float | None
) -> PeerSet | PeerRemoved:
    key, (name, owner) = step.change.public_key, _who(node)
    if isinstance(step.change, RemovePeer):
        return PeerRemoved(key, token, name, owner, step.reason, block, latency)
    added = isinstance(step.inverse, RemovePeer)
    return PeerSet(key, token, name, owner, step.reason, added, block, latency)


def _token(logged: LoggedEvent, registry: Registry, *, undone: bool) -> TokenChanged:
    event, token, owner = logged.event, None, None
    name = None
    if isinstance(event, OwnerKeyUpdated):
        owner = event.owner
    else:
        token = event.token_id
        name, owner = _who(registry.get(token))
    kind = _EVENTS[type(event).__name__]
    return TokenChanged(kind, token, name, owner, logged.block_number, logged.log_index, undone)


def _who(node: Node | None) -> tuple[str | None, str | None]:
    """A token's node id, where it has one that can be shown, and its owner."""
    if node is None:
        return None, None
    return node.node_id if isinstance(node.node_id, str) else None, node.owner
