"""The members of a registry, as a policy names them."""

import ipaddress
from collections.abc import Iterator

from dstack_vpn.core.access.control import AccessControl, Decision, Reason
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.policy.directory import Member, MemberDirectory


def directory_of(access: AccessControl, now: float) -> MemberDirectory:
    """Return the tokens with access at ``now`` (Unix seconds), and this node's own token.

    A tag without a name, and malformed routes, select no member.
    """
    return MemberDirectory.of(_members(access, now), access.addresses.networks)


def _members(access: AccessControl, now: float) -> Iterator[Member]:
    for token, node in sorted(access.registry.nodes.items()):
        decision = access.decide(token, now)
        if decision.granted or decision.reason is Reason.OWN_KEY:
            yield _member(access, node, decision)


def _member(access: AccessControl, node: Node, decision: Decision) -> Member:
    found = access.addresses.ipv4_of(node.token_id), access.addresses.ipv6_of(node.token_id)
    return Member(
        token=node.token_id,
        node_id=node.node_id if isinstance(node.node_id, str) else None,
        owner=node.owner,
        tags=frozenset(
            tag for tag in access.registry.contract.tags_of(decision.tags) if isinstance(tag, str)
        ),
        addresses=frozenset(address for address in found if address is not None),
        routes=tuple(map(ipaddress.ip_network, decision.routes)),
    )
