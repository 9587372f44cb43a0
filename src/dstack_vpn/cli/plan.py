"""`plan`: the changes that the daemon would make now, with their reasons, without making them."""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click
from rich.text import Text

from dstack_vpn.cli.layout import Layout, Row
from dstack_vpn.cli.node_reading import access_over
from dstack_vpn.cli.options import with_settings
from dstack_vpn.cli.tables import console
from dstack_vpn.cli.text import printable
from dstack_vpn.config import Settings
from dstack_vpn.core.access.control import AccessControl, Admission, Reason
from dstack_vpn.core.access.membership import Lookup, Membership, keys_behind
from dstack_vpn.core.access.plan import Plan, Step, brake
from dstack_vpn.core.access.plan import plan as make_plan
from dstack_vpn.core.model import DeviceState, Peer, RemovePeer, SetPeer, SocketAddress, TokenId
from dstack_vpn.core.paths.moving import Evidence
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.policy.networks import OwnNetworks
from dstack_vpn.core.wireguard.config_file import parse as parse_config
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import FormatError, StoreError

if TYPE_CHECKING:
    from dstack_vpn.wiring.node import Snapshot


_COLOURS: Final = {"add": "green", "update": "yellow", "remove": "red"}


@dataclass(frozen=True, slots=True)
class _Facts:
    """The state that was read, and its consequences."""

    snapshot: "Snapshot"
    device: DeviceState | None
    access: AccessControl
    membership: Membership
    networks: tuple[dict[str, Any], ...]
    """The accepted networks behind other nodes."""
    notes: tuple[str, ...]
    now: float

    @property
    def actual(self) -> DeviceState:
        return self.device or DeviceState(None, 0)

    @property
    def plan(self) -> Plan:
        reasons = {key: str(self.access.decide(key, self.now)) for key in self.actual.peers}
        removed = {key: reason for key, reason in reasons.items() if self.access.registry.with_key(key)}
        tokens = self.membership.tokens
        # Sorted by token, so that repeated runs have the same output.
        desired = dict(sorted(self.membership.peers.items(), key=lambda item: tokens[item[0]]))
        evidence = Evidence(self.now, destinations=self.membership.policy.destinations)
        return make_plan(self.actual, desired, {}, removed, evidence)


@click.command(
    epilog="""\b
Examples:
  dstack-vpn plan
  dstack-vpn plan --json | jq '.changes[] | select(.action == "remove")'"""
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings(of_daemon=True)
def plan(settings: Settings, *, as_json: bool) -> None:
    """Show the pending changes to the interface with their reasons, without making them.

    The registry and its policy are read from the chain, and the peers from the interface, if it
    exists. Networks behind other nodes are shown with their gateways (ACCEPT_ROUTES). The WireGuard
    key in the settings, or else the interface's key, identifies this node.
    """
    facts = asyncio.run(_read(settings))
    steps = facts.plan
    document = {
        "block": facts.snapshot.at.number,
        "endpoint": facts.snapshot.endpoint,
        "interface": settings.interface,
        "peers_now": len(facts.actual.peers),
        "peers_then": len(facts.membership.peers),
        "changes": [_change(step, facts) for step in steps.steps],
        "networks": list(facts.networks),
        "no_peers": list(_no_peers(facts)),
        "notes": [*facts.notes, *_brake(steps, facts)],
    }
    if as_json:
        click.echo(json.dumps(document))
    else:
        _show(document)


# -- reading ---------------------------------------------------------------------------------------


async def _read(settings: Settings) -> _Facts:
    from dstack_vpn.wiring import node as wiring
    from dstack_vpn.wiring import policy as policies
    from dstack_vpn.wiring.addresses import peer_policy
    from dstack_vpn.wiring.exit_plan import use_exit
    from dstack_vpn.wiring.policy_plan import under_policy
    from dstack_vpn.wiring.routes_plan import use_networks

    snapshot, registry_policy = await policies.read_all(settings)
    device = await wiring.look_at_device(settings)
    own = _own_key(settings, device)
    access, now = access_over(settings, snapshot, own), wiring.judged_now(settings, snapshot.at)
    access, policy_notes = under_policy(settings, access, registry_policy, now)
    names = wiring.endpoint_book(settings)
    policy = peer_policy(settings)
    lookup = partial(_where, device, names.by_udp)
    pinned = await _pinned(settings)
    if pinned is not None:
        access = replace(
            access, admission=Admission(pinned=keys_behind(pinned, access.registry, access.addresses))
        )
    membership = Membership(policy, lookup, pinned=pinned)
    membership.rebuild(access, now)
    # The first rebuild only registered the names to resolve.
    await names.resolve_due()
    membership.rebuild(access, now)
    exit_notes = use_exit(settings, access, registry_policy, membership, device=device, now=now)
    networks = await use_networks(settings, access, registry_policy, membership, device=device, now=now)
    notes = (
        *_notes(settings, device, own, membership),
        *_routes(settings, access, now),
        *policy_notes,
        *exit_notes,
    )
    return _Facts(snapshot, device, access, membership, tuple(networks.describe()), notes, now)


def _where(
    device: DeviceState | None, by_udp: Lookup, key: PublicKey, peer_endpoint: PeerEndpoint
) -> SocketAddress | None:
    """Return a peer's endpoint; the relay in use is the daemon's choice, and not a difference."""
    state = None if device is None else device.peers.get(key)
    if (
        peer_endpoint.relays
        and state is not None
        and state.endpoint is not None
        and state.endpoint.is_loopback
    ):
        return state.endpoint
    return by_udp(key, peer_endpoint)


def _own_key(settings: Settings, device: DeviceState | None) -> PublicKey | None:
    if settings.wireguard_private_key is not None:
        return derive(settings.wireguard_private_key)
    return None if device is None else device.public_key


async def _pinned(settings: Settings) -> dict[PublicKey, Peer] | None:
    from dstack_vpn.wiring import node as wiring

    text = await wiring.archive(settings).pinned()
    if text is None:
        return None
    try:
        return {entry.peer.public_key: entry.peer for entry in parse_config(text).peers}
    except FormatError as error:
        raise StoreError(f"the pinned configuration can't be read: {error}") from error


def _notes(
    settings: Settings, device: DeviceState | None, own: PublicKey | None, membership: Membership
) -> Iterable[str]:
    if device is None:
        yield f"the interface {settings.interface} does not exist: every member would be added"
    if own is None:
        yield "WIREGUARD_PRIVATE_KEY is not set: this node can't be identified"
    elif device is not None and device.public_key not in (own, None):
        yield f"the interface has another key than the settings: it would be set to that of {own}"
    if membership.pinned is not None:
        yield "a backup is pinned: no other peers are added until 'dstack-vpn config resume'"


def _routes(settings: Settings, access: AccessControl, now: float) -> Iterable[str]:
    """Yield the routes of this node that it does not forward to."""
    decision = access.decide(access.own_key, now)
    if decision.reason is Reason.OWN_KEY:
        has_exit, prefixes = bool(settings.exit_node), access.addresses.networks
        for refused in OwnNetworks.of(decision.routes, prefixes, has_exit=has_exit).refused:
            yield f"this node does not forward to its route {refused}"


def _brake(steps: Plan, facts: _Facts) -> Iterable[str]:
    if brake(steps, len(facts.actual.peers)):
        yield (
            f"{len(steps.removals)} of {len(facts.actual.peers)} peers would be removed: the daemon does "
            "this only after a second reading of the chain"
        )


# -- output ----------------------------------------------------------------------------------------


def _change(step: Step, facts: _Facts) -> dict[str, Any]:
    key = step.change.public_key
    match step.change:
        case RemovePeer():
            return {"action": "remove", **_who(key, facts), "reason": step.reason, "details": []}
        case SetPeer():
            action = "update" if key in facts.actual.peers else "add"
            return {"action": action, **_who(key, facts), "reason": step.reason, "details": _details(step)}


def _details(step: Step) -> list[str]:
    """Return descriptions of the changed settings."""
    change = step.change
    assert isinstance(change, SetPeer)
    ips = change.allowed_ips
    found = [] if ips is None else [f"allowed IPs {', '.join(sorted(ips)) or 'none'}"]
    found += [f"without the allowed IPs {', '.join(sorted(step.cuts))}"] if step.cuts else []
    found += [] if change.endpoint is None else [f"endpoint {change.endpoint}"]
    return found + ([] if change.keepalive is None else [f"keepalive {change.keepalive} s"])


def _who(key: PublicKey, facts: _Facts) -> dict[str, Any]:
    token = facts.membership.tokens.get(key, max(facts.access.registry.with_key(key), default=None))
    return {"node_id": _node_id(token, facts), "token": token, "public_key": str(key)}


def _node_id(token: TokenId | None, facts: _Facts) -> str | None:
    node = None if token is None else facts.access.registry.get(token)
    return node.node_id if node is not None and isinstance(node.node_id, str) else None


def _no_peers(facts: _Facts) -> Iterable[dict[str, Any]]:
    """Yield the nodes that are not peers, with the reasons."""
    for token in sorted(facts.access.registry.nodes.keys() - facts.membership.key_of.keys()):
        reason = str(facts.access.decide(token, facts.now))
        yield {"token": token, "node_id": _node_id(token, facts), "reason": reason}


def _show(document: dict[str, Any]) -> None:
    changes, others = document["changes"], document["no_peers"]
    click.echo(
        f"{document['interface']}: {_count(document['peers_now'], 'peer')} now, "
        f"{document['peers_then']} by the registry at block {document['block']}; "
        f"{_count(len(changes), 'change')}"
    )
    if changes:
        rows = [
            Row(
                (Text(c["action"], _COLOURS[c["action"]]), c["node_id"], c["token"], c["reason"]),
                (*c["details"], f"key {c['public_key']}"),
            )
            for c in changes
        ]
        console().print(Layout(("change", "node", "token", "reason"), rows))
    if networks := document["networks"]:
        rows = [Row((n["network"], n["node_id"], n["problem"])) for n in networks]
        console().print(Layout(("network", "by", "problem"), rows, "Networks behind other nodes"))
    if others:
        rows = [Row((o["node_id"], o["token"], o["reason"])) for o in others]
        console().print(Layout(("node", "token", "reason"), rows, "Not peers"))
    for note in document["notes"]:
        click.echo(f"note: {printable(note)}")


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
