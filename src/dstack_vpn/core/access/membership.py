"""The desired peers of this node: the granted nodes as WireGuard peers.

`Membership` keeps that set up to date by deltas: an event affects a few keys, and only those are
decided again. `rebuild` decides about all keys and must produce the same set; the resync relies on
that.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.access.control import AccessControl, Decision
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import Malformed, Peer, SocketAddress, TokenId
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


def peer_of(node: Node, key: PublicKey, addresses: AddressPlan, policy: PeerPolicy, lookup: Lookup) -> Peer:
    """Return a granted node as a WireGuard peer."""
    peer_endpoint = policy.endpoint_of(node)
    address = None if peer_endpoint is None else lookup(key, peer_endpoint)
    return Peer(key, addresses.allowed_ips(node.token_id), address, policy.keepalive)


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
    """The token of each peer."""
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

    def _decide(self, access: AccessControl, key: PublicKey, now: float) -> Delta | None:
        decision = access.decide(key, now)
        old = self.peers.get(key)
        new = self._grant(access, key, decision)
        return Delta(key, old, new, decision) if new != old else None

    def _grant(self, access: AccessControl, key: PublicKey, decision: Decision) -> Peer | None:
        if not decision.granted or decision.node is None:
            self.peers.pop(key, None)
            self.tokens.pop(key, None)
            return None
        peer = peer_of(decision.node, key, access.addresses, self.policy, self.lookup)
        if self.pinned is not None:
            peer = _as_pinned(peer, self.pinned[key], self.policy.destinations)
        self.peers[key] = peer
        self.tokens[key] = decision.node.token_id
        return peer


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
