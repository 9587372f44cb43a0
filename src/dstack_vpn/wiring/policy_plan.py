"""Access control under the policies of a registry and a file, for `plan` and `doctor`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dstack_vpn.config import Settings
from dstack_vpn.core.access.control import AccessControl, Reason
from dstack_vpn.core.model import Cidr
from dstack_vpn.core.policy.compiler import CompiledPolicy, PolicyInForce, Subject
from dstack_vpn.core.policy.forwarding import ConnectedViews, Distinction
from dstack_vpn.core.policy.members import members_of_tests
from dstack_vpn.core.policy.networks import OwnNetworks, zones
from dstack_vpn.core.policy.selection import PolicySelection
from dstack_vpn.wiring.policy_file import read_policy_file

if TYPE_CHECKING:
    from dstack_vpn.wiring.policy import RegistryPolicy


def under_policy(
    settings: Settings, access: AccessControl, registry: "RegistryPolicy", now: float
) -> tuple[AccessControl, list[str]]:
    """Return access control as a node without a last good policy has it, and notes about it.

    ``now`` is in Unix seconds. Raises `ConfigError` if POLICY_FILE can't be used.
    """
    selection = selected(settings, access, registry, now)
    if selection.in_force is None:
        return access, []
    own = access.decide(access.own_key, now)
    node = own.node if own.reason is Reason.OWN_KEY else None
    subject = None if node is None else access.subject(node)
    tag_names = access.registry.contract.tag_names
    distinction = Distinction(selection.in_force, tag_names)
    clients = (each.node for each in access.own_clients(now) if each.node is not None)
    views = {distinction.of(access.subject(client)) for client in clients}
    routes, prefixes = () if subject is None else subject.routes, access.addresses.networks
    usable = OwnNetworks.of(routes, prefixes, has_exit=bool(settings.exit_node)).usable
    behind = zones(usable, (each.document for each in selection.in_force))
    policy = ConnectedViews(
        CompiledPolicy(selection.in_force, tag_names, subject),
        tuple(map(distinction.view, views)),
        tuple(CompiledPolicy(selection.in_force, tag_names, zone) for zone in behind),
    )
    return replace(access, policy=policy), list(_notes(selection, is_member=node is not None))


def selected(
    settings: Settings, access: AccessControl, registry: "RegistryPolicy", now: float
) -> PolicySelection:
    """Return the policies in force on a node without a last good policy.

    Raises `ConfigError` if POLICY_FILE can't be used.
    """
    selection = PolicySelection(read_policy_file(settings.policy_file))
    offered = [registry.policy] if registry.supported else None
    selection.choose(offered, lambda document: members_of_tests(access, document, now))
    return selection


def reaching(
    in_force: Sequence[PolicyInForce] | None, tag_names: Sequence[str], own: Subject | None
) -> Callable[[Cidr], bool]:
    """Return the networks to which the policies let a node send, as `Policies.reaches` decides."""
    if in_force is None:
        return lambda network: True
    compiled = CompiledPolicy(in_force, tag_names, own)
    return lambda network: compiled.reaches((network,))


def _notes(selection: PolicySelection, *, is_member: bool) -> Iterator[str]:
    if selection.refused is not None:
        yield (
            f"{selection.refused}. A daemon keeps its last good policy, which is not known here; without one "
            "it has no peers"
        )
    if selection.warning is not None:
        yield f"{selection.warning}. A daemon that has another policy keeps that one"
    if not is_member:
        yield "this node is not a member, so the policy connects it with no other node"
