"""The members of a registry, as a policy names them."""

from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network

from dstack_vpn.core.access.control import AccessControl, Decision, Reason
from dstack_vpn.core.addresses import IPAddress
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import TokenId
from dstack_vpn.core.policy.directory import Member, MemberDirectory
from dstack_vpn.core.policy.document import PolicyDocument
from dstack_vpn.core.policy.selectors import Selector, SelectorKind

_MEMBERS = frozenset({Reason.ACTIVE, Reason.OWN_KEY, Reason.NO_GRANT})
"""The reasons of tokens that have access, also without a grant of the policy."""


def members_of_tests(access: AccessControl, document: PolicyDocument, now: float) -> MemberDirectory:
    """Return the members that the tests of a policy name; ``now`` in Unix seconds."""
    selectors = {test.src for test in document.tests}
    selectors |= {target.dst for test in document.tests for target in (*test.accept, *test.deny)}
    nodes = access.registry.nodes.values() if selectors else ()
    return _directory(access, (n.token_id for n in nodes if _is_named(access, n, selectors)), now)


def directory_of(access: AccessControl, now: float) -> MemberDirectory:
    """Return the tokens with access at ``now`` (Unix seconds), and this node's own token.

    A tag without a name, and malformed routes, select no member.
    """
    return _directory(access, sorted(access.registry.nodes), now)


def members_around(access: AccessControl, addresses: Iterable[IPAddress], now: float) -> MemberDirectory:
    """Return the members that decide about packets between these addresses."""
    found: set[TokenId] = set()
    for address in addresses:
        if any(address in network for network in access.addresses.networks):
            token = access.addresses.token_at(str(address))
            found |= set() if token is None else {token}
        else:
            found |= {node.token_id for node in access.registry.nodes.values() if node.routes}
    return _directory(access, found, now)


def _directory(access: AccessControl, tokens: Iterable[TokenId], now: float) -> MemberDirectory:
    return MemberDirectory.of(_members(access, tokens, now), access.addresses.networks)


def _members(access: AccessControl, tokens: Iterable[TokenId], now: float) -> Iterator[Member]:
    for token in tokens:
        decision = access.decide(token, now)
        if decision.reason in _MEMBERS and decision.node is not None:
            yield _member(access, decision.node, decision)


def _member(access: AccessControl, node: Node, decision: Decision) -> Member:
    names = access.registry.contract.tags_of(decision.tags)
    return Member(
        node.token_id,
        node.node_id if isinstance(node.node_id, str) else None,
        node.owner,
        frozenset(name for name in names if isinstance(name, str)),
        frozenset(map(ip_address, access.addresses.texts_of(node.token_id))),
        tuple(map(ip_network, decision.routes)),
    )


def _is_named(access: AccessControl, node: Node, selectors: Iterable[Selector]) -> bool:
    tags = set(access.registry.contract.tags_of(node.tags))
    for selector in selectors:
        match selector.kind:
            case SelectorKind.TAG if selector.value in tags:
                return True
            case SelectorKind.NODE if selector.value == node.node_id:
                return True
            case SelectorKind.OWNER if selector.value == node.owner:
                return True
            case _:
                continue
    return False
