"""The desired peers of this node: the granted nodes as WireGuard peers.

`Membership` keeps that set up to date by deltas: an event affects a few keys, and only those are
decided again. `rebuild` decides about all keys and must produce the same set; the resync relies on
that.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.access.control import AccessControl, Decision
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import Cidr, Malformed, Peer, SocketAddress, TokenId
from dstack_vpn.core.paths.destination import Destinations
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

Lookup: TypeAlias = Callable[[PublicKey, PeerEndpoint], SocketAddress | None]
"""The endpoint to which WireGuard sends for a peer, as currently known."""


@dataclass(frozen=True)
class PeerPolicy:
    """The operator's settings for peers."""

    endpoints: Mapping[str, PeerEndpoint] = field(default_factory=dict)
    """Endpoints by node id; they take precedence over those from the chain."""
    template: str | None = None
    """The endpoint of a peer without one, such as ``{node_id}.vpn.internal:51820``."""
    keepalive: int = 0
    """Seconds between persistent keepalives; 0: off."""
    destinations: Destinations = field(default_factory=Destinations)
    """The addresses to which packets for peers may be sent."""

    def endpoint_of(self, node: Node) -> PeerEndpoint | None:
        """Return the first usable endpoint: ours, the contract's, the token URI's, the template's.

        Ours takes precedence even if it is refused: the operator does not want another one.
        """
        if not isinstance(node.node_id, str):
            return None
        ours = self.endpoints.get(node.node_id)
        if ours is not None:
            return self._allowed(ours)
        found = self._allowed(node.endpoint) or self._allowed(node.uri_endpoint)
        return found or self._allowed(self._from_template(node.node_id, node.token_id))

    def _allowed(self, peer_endpoint: PeerEndpoint | Malformed | None) -> PeerEndpoint | None:
        if (
            not isinstance(peer_endpoint, PeerEndpoint)
            or peer_endpoint.refusal(self.destinations) is not None
        ):
            return None
        return peer_endpoint

    def _from_template(self, node_id: str, token_id: TokenId) -> PeerEndpoint | None:
        if self.template is None:
            return None
        try:
            return PeerEndpoint.parse(fill_template(self.template, node_id, token_id), local=True)
        except FormatError:
            return None  # the node id does not form a host name: the peer has to send first


def fill_template(template: str, node_id: str, token_id: TokenId) -> str:
    """Replace ``{node_id}`` and ``{token_id}``."""
    return template.replace("{node_id}", node_id).replace("{token_id}", str(token_id))


@dataclass(frozen=True, slots=True)
class Delta:
    """A peer before and after a decision; None if it is not a peer."""

    public_key: PublicKey
    old: Peer | None
    new: Peer | None
    decision: Decision

    @property
    def reason(self) -> str:
        """Return the reason as text."""
        return str(self.decision)


@dataclass(slots=True)
class Membership:
    """The desired peers, kept current by deltas."""

    policy: PeerPolicy
    lookup: Lookup
    peers: dict[PublicKey, Peer] = field(default_factory=dict)
    tokens: dict[PublicKey, TokenId] = field(default_factory=dict)
    """The token of each peer; if several have its key, the earliest claim."""
    others: dict[PublicKey, frozenset[TokenId]] = field(default_factory=dict)
    """The further tokens with the key of a peer."""
    turns: dict[PublicKey, int] = field(default_factory=dict)
    """How often a peer that several tokens name was silent, which decides whose endpoint it has."""
    pinned: Mapping[PublicKey, Peer] | None = None
    """The peers to which the operator has rolled back, as they were at that time.

    During a pin, access control does not admit other keys, and still decides about these: a pin
    never restores a peer that the chain has revoked.
    """

    def pin(self, peers: Mapping[PublicKey, Peer] | None) -> None:
        """Pin the peers to these, from the next decision on; None ends the pin."""
        self.pinned = peers

    def update(self, access: AccessControl, keys: Iterable[PublicKey], now: float) -> list[Delta]:
        """Decide about these keys again; returns the peers that changed."""
        deltas = (self._decide(access, key, now) for key in set(keys))
        return [delta for delta in deltas if delta is not None]

    def rebuild(self, access: AccessControl, now: float) -> list[Delta]:
        """Decide about all nodes again; returns the peers that changed."""
        return self.update(access, {*self.peers, *access.registry.by_key}, now)

    def is_peer(self, key: PublicKey, token: TokenId) -> bool:
        """Return whether a peer with that key stands for the token."""
        return self.tokens.get(key) == token or token in self.others.get(key, ())

    def pairs(self) -> Iterator[tuple[PublicKey, TokenId]]:
        """Return each peer's key with each of its tokens."""
        yield from self.tokens.items()
        for key, tokens in self.others.items():
            yield from ((key, token) for token in tokens)

    def tokens_of(self, key: PublicKey) -> Iterator[TokenId]:
        """Return the tokens that a peer stands for, the earliest claim first."""
        if key in self.tokens:
            yield self.tokens[key]
            yield from self.others.get(key, ())

    def turn(self, keys: Iterable[PublicKey]) -> list[PublicKey]:
        """Use another token's endpoint for these silent peers; return those with several tokens."""
        turned = [key for key in keys if key in self.others]
        for key in turned:
            self.turns[key] = self.turns.get(key, 0) + 1
        return turned

    def _decide(self, access: AccessControl, key: PublicKey, now: float) -> Delta | None:
        grants = access.claims(key, now)
        decision = grants[0] if grants else access.decide(key, now)
        old = self.peers.get(key)
        new = self._grant(access, key, [grant.node for grant in grants if grant.node is not None])
        return Delta(key, old, new, decision) if new != old else None

    def _grant(self, access: AccessControl, key: PublicKey, nodes: Sequence[Node]) -> Peer | None:
        for entries in (self.peers, self.tokens, self.others):
            entries.pop(key, None)
        if len(nodes) < 2:
            self.turns.pop(key, None)
        if not nodes:
            return None
        peer = self._peer(key, nodes, access.addresses)
        if self.pinned is not None:
            peer = _as_pinned(peer, self.pinned[key], self.policy.destinations)
        self.peers[key] = peer
        self.tokens[key] = nodes[0].token_id
        if len(nodes) > 1:
            self.others[key] = frozenset(node.token_id for node in nodes[1:])
        return peer

    def _peer(self, key: PublicKey, nodes: Sequence[Node], addresses: AddressPlan) -> Peer:
        """Return the granted nodes with one key as a WireGuard peer.

        The peer has the addresses of all nodes and the endpoint of one. `turns` decides which, so
        that a false endpoint of one node does not keep the peer out of reach.
        """
        found = list(dict.fromkeys(filter(None, map(self.policy.endpoint_of, nodes))))
        endpoint = self.lookup(key, found[self.turns.get(key, 0) % len(found)]) if found else None
        allowed = frozenset[Cidr]().union(*(addresses.allowed_ips(node.token_id) for node in nodes))
        return Peer(key, allowed, endpoint, self.policy.keepalive)


def _as_pinned(peer: Peer, pin: Peer, destinations: Destinations) -> Peer:
    """Return the peer as it was pinned.

    It has the current endpoint if the pinned one is missing, such as with a relay, or refused.
    """
    known = pin.endpoint is not None and destinations.refusal(pin.endpoint.host) is None
    return replace(peer, endpoint=pin.endpoint if known else peer.endpoint, keepalive=pin.keepalive)


def keys_of(tokens: Iterable[TokenId], *registries: Registry) -> set[PublicKey]:
    """Return the keys of these tokens in any of the registries, which a change may affect."""
    nodes = (registry.get(token) for token in tokens for registry in registries)
    return {n.public_key for n in nodes if n is not None and isinstance(n.public_key, PublicKey)}
