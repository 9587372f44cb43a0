"""The members of a registry, as nodes to be registered in another one.

Nodes without access (revoked, expired, or without a key) are left out. A member that the new
registry would refuse is a problem, because it would lose its access.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dstack_vpn.core.chain.enrolment import Enrolment
from dstack_vpn.core.chain.invitation import check_label
from dstack_vpn.core.chain.invitation_facts import tag_names
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import TokenId
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError


class LeftOut(NamedTuple):
    """A node of the old registry that is not registered in the new one."""

    token: TokenId
    node_id: str | None
    """None if it is malformed."""
    reason: str


@dataclass(frozen=True, slots=True)
class Members:
    """The nodes of the old registry, in the order of their tokens."""

    wanted: tuple[tuple[TokenId, Enrolment], ...]
    left_out: tuple[LeftOut, ...]
    """Nodes without access."""
    refused: tuple[LeftOut, ...]
    """Members that can't be registered as they are."""


def members(registry: Registry, tags: Sequence[str | None], time: int) -> Members:
    """Return the members of a registry with its tags, at its time in Unix seconds."""
    wanted: list[tuple[TokenId, Enrolment]] = []
    left_out, refused, seen = [], [], dict[str, TokenId]()
    for token, node in sorted(registry.nodes.items()):
        if (reason := _without_access(node, time)) is not None:
            left_out.append(LeftOut(token, _name(node), reason))
            continue
        try:
            each = _enrolment(node, tags)
        except FormatError as error:
            refused.append(LeftOut(token, _name(node), str(error)))
            continue
        first = seen.setdefault(each.node_id, token)
        if first == token:
            wanted.append((token, each))
        else:
            refused.append(LeftOut(token, each.node_id, f"token {first} has the same node id"))
    return Members(tuple(wanted), tuple(left_out), tuple(refused))


def _name(node: Node) -> str | None:
    return node.node_id if isinstance(node.node_id, str) else None


def _without_access(node: Node, time: int) -> str | None:
    if not node.active:
        return "it is revoked"
    if node.expires_at and node.expires_at < time:
        return "its access has ended"
    return "it waits for its holder's key" if node.public_key is None else None


def _enrolment(node: Node, tags: Sequence[str | None]) -> Enrolment:
    """Return a node as it will be registered; raises `FormatError` if that is not possible."""
    if not isinstance(node.node_id, str):
        raise FormatError(node.node_id.problem)
    if not isinstance(node.public_key, PublicKey):
        raise FormatError("its key is malformed")
    if not isinstance(node.routes, tuple):
        raise FormatError(node.routes.problem)
    names = tuple(tag_names(node.tags, tuple(tags)))
    if any(name not in tags for name in names):
        raise FormatError("it has a tag without a valid name")
    return Enrolment(
        check_label(node.node_id, "node id"),
        node.owner,
        node.public_key,
        _endpoint(node),
        names,
        node.routes,
        node.expires_at,
    )


def _endpoint(node: Node) -> PeerEndpoint | None:
    """Return the holder's endpoint, else that of the token's URI."""
    for endpoint in (node.endpoint, node.uri_endpoint):
        if isinstance(endpoint, PeerEndpoint):
            return endpoint
    return None
