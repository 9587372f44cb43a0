"""The networks behind other nodes to which the policies let this node send.

A member does not filter what it sends: the gateway of a network enforces the policies. A network to
which nothing is permitted is not routed into the tunnel at all.
"""

import ipaddress
from collections.abc import Sequence

from dstack_vpn.core.model import Cidr
from dstack_vpn.core.paths.destination import IPNetwork
from dstack_vpn.core.policy.compiler import PolicyInForce, Subject
from dstack_vpn.core.policy.selectors import Selector, SelectorKind


def may_send(
    policies: Sequence[PolicyInForce] | None, tag_names: Sequence[str], own: Subject | None, prefix: Cidr
) -> bool:
    """Return whether each of the policies has a grant from this node to a part of a network.

    ``policies`` is None if no policy restricts anything.
    """
    if policies is None:
        return True
    network = ipaddress.ip_network(prefix)
    return own is not None and all(
        any(
            any(_names(selector, own, tag_names) for selector in grant.src)
            and any(_includes(selector, network) for selector in grant.dst)
            for grant in policy.document.grants
        )
        for policy in policies
    )


def _names(selector: Selector, own: Subject, tag_names: Sequence[str]) -> bool:
    match selector.kind:
        case SelectorKind.ANY:
            return True
        case SelectorKind.TAG:
            return selector.value in tag_names and bool(own.tags >> tag_names.index(selector.value) & 1)
        case SelectorKind.NODE:
            return selector.value == own.node_id
        case SelectorKind.OWNER:
            return selector.value == own.owner
        case _:
            return False


def _includes(selector: Selector, network: IPNetwork) -> bool:
    if selector.kind is not SelectorKind.NETWORK:
        return selector.kind is SelectorKind.ANY
    other = selector.network
    return other.version == network.version and other.overlaps(network)
