"""The desired peers of this node: the granted nodes as WireGuard peers.

`Membership` keeps that set up to date by deltas: an event affects a few keys and tokens, and only
those are decided again. `rebuild` decides about all of them and must produce the same set; the
resync relies on that. A gateway's peer has the addresses of all of its plain clients. The decisions
about the clients are kept (`GatewayClients`), so that a change of one client costs one decision.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.access.clients import GatewayClients
from dstack_vpn.core.access.control import AccessControl, Decision
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import Cidr, Malformed, Peer, PeerState, Position, SocketAddress, TokenId
from dstack_vpn.core.paths.destination import Destinations
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint, fill_template
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
        if not isinstance(node.node_id, str) or node.via is not None:
            return None  # a plain client sends first
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


@dataclass(frozen=True, slots=True)
class Delta:
    """A peer before and after a decision; None if it is not a peer."""

    public_key: PublicKey
    old: Peer | None
    new: Peer | None
    decision: Decision

    @property
    def gained(self) -> frozenset[Cidr]:
        """The allowed IPs that the peer has only after the decision."""
        before = frozenset[Cidr]() if self.old is None else self.old.allowed_ips
        return frozenset() if self.new is None else self.new.allowed_ips - before

    @property
    def lost(self) -> frozenset[Cidr]:
        """The allowed IPs that the peer has only before the decision."""
        after = frozenset[Cidr]() if self.new is None else self.new.allowed_ips
        return frozenset() if self.old is None else self.old.allowed_ips - after

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
    """The further tokens whose addresses lead to a peer: with its key, and its plain clients."""
    key_of: dict[TokenId, PublicKey] = field(default_factory=dict)
    """The peer of each token."""
    turns: dict[PublicKey, int] = field(default_factory=dict)
    """How often a peer that several tokens name was silent, which decides whose endpoint it has."""
    networks: dict[Cidr, TokenId] = field(default_factory=dict, init=False)
    """The networks behind nodes that this node reaches, and the token whose peer each leads to.

    A prefix of length 0 is an exit. See `move_networks`.
    """
    _networks_of: dict[TokenId, frozenset[Cidr]] = field(default_factory=dict, init=False)
    """The same by token."""
    _clients: GatewayClients = field(default_factory=GatewayClients, init=False)
    pinned: Mapping[PublicKey, Peer] | None = None
    """The peers to which the operator has rolled back, as they were at that time.

    During a pin, access control does not admit other keys, and still decides about these: a pin
    never restores a peer that the chain has revoked.
    """

    def pin(self, peers: Mapping[PublicKey, Peer] | None) -> None:
        """Pin the peers to these, from the next decision on; None ends the pin."""
        self.pinned = peers

    def move_networks(self, moves: Mapping[Cidr, TokenId | None]) -> set[TokenId]:
        """Let each of these networks lead to a token's peer; None: to no peer any more.

        The networks become allowed IPs of the token's own peer at the next decision about it. While
        the token has no peer, they lead nowhere. Returns the tokens whose networks have changed.
        """
        changed: set[TokenId] = set()
        for prefix, token in moves.items():
            before = self.networks.pop(prefix, None)
            if token is not None:
                self.networks[prefix] = token
            if before != token:
                changed.update(each for each in (before, token) if each is not None)
        for token in changed:
            self._networks_of.pop(token, None)
        for prefix, token in self.networks.items():
            if token in changed:
                self._networks_of[token] = self.networks_of(token) | {prefix}
        return changed

    def networks_of(self, token: TokenId) -> frozenset[Cidr]:
        """Return the networks that lead to the peer of a token."""
        return self._networks_of.get(token, frozenset())

    def update(
        self, access: AccessControl, keys: Iterable[PublicKey], tokens: Iterable[TokenId], now: float
    ) -> list[Delta]:
        """Decide about these keys and tokens again; returns the peers that changed.

        ``tokens`` are those whose decision may have changed since the last update, with their
        `dependents`.
        """
        due = set(keys)
        for token in self._clients.update(access, tokens, now):
            found = self.key_of.get(token), self._clients.gateway_key(token)
            due.update(key for key in found if key is not None)
        deltas = (self._decide(access, key, now) for key in due)
        return [delta for delta in deltas if delta is not None]

    def rebuild(self, access: AccessControl, now: float) -> list[Delta]:
        """Decide about all nodes again; returns the peers that changed."""
        keys = {*self.peers, *access.registry.by_key}
        return self.update(access, keys, {*self._clients, *access.registry.nodes}, now)

    def is_peer(self, token: TokenId) -> bool:
        """Return whether a peer stands for the token."""
        return token in self.key_of

    def keys(self) -> set[PublicKey]:
        """Return the keys of the peers and of their plain clients."""
        behind = (self._clients[token].node for token in self._clients if token in self.key_of)
        keys = (None if node is None else node.public_key for node in behind)
        return {*self.peers, *(key for key in keys if isinstance(key, PublicKey))}

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
        grants, gateways = access.claims(key, now), self._gateways(access, key)
        decision = next(iter(grants), None) or self._clients.first(gateways) or access.decide(key, now)
        old = self.peers.get(key)
        new = self._grant(access, key, [each.node for each in grants if each.node is not None], gateways)
        return Delta(key, old, new, decision) if new != old else None

    def _gateways(self, access: AccessControl, key: PublicKey) -> list[Node]:
        """Return the nodes with this key that forward for plain clients, the earliest claim first.

        The clients of this node itself are peers of their own.
        """
        if key == access.own_key:
            return []
        registry = access.registry
        found = [registry.nodes[token] for token in registry.with_key(key) if self._clients.behind(token)]
        return sorted(found, key=_since)

    def _grant(
        self, access: AccessControl, key: PublicKey, nodes: Sequence[Node], gateways: Sequence[Node]
    ) -> Peer | None:
        if len(nodes) < 2:
            self.turns.pop(key, None)
        # The policy may connect us with a gateway's client, and not with the gateway.
        carriers = nodes or gateways
        behind = [self._clients.behind(gateway.token_id) for gateway in gateways]
        tokens = frozenset(node.token_id for node in carriers).union(*behind)
        self._stand_for(key, tokens)
        if not carriers:
            for entries in (self.peers, self.tokens, self.others):
                entries.pop(key, None)
            return None
        peer = self._peer(access, key, nodes, gateways)
        if self.pinned is not None and (pin := self.pinned.get(key)) is not None:
            peer = _as_pinned(peer, pin, self.policy.destinations)
        self.peers[key] = peer
        self.tokens[key] = carriers[0].token_id
        self.others.pop(key, None)
        if others := tokens - {carriers[0].token_id}:
            self.others[key] = others
        return peer

    def _stand_for(self, key: PublicKey, tokens: frozenset[TokenId]) -> None:
        """Let the peer stand for these tokens, and for no others."""
        before = self.others.get(key, frozenset()).union([self.tokens[key]] if key in self.tokens else ())
        for token in before - tokens:
            if self.key_of.get(token) == key:  # a client may already have another gateway
                del self.key_of[token]
        self.key_of |= dict.fromkeys(tokens - before, key)

    def _peer(
        self, access: AccessControl, key: PublicKey, nodes: Sequence[Node], gateways: Sequence[Node]
    ) -> Peer:
        """Return the nodes with one key, and the clients of its gateways, as a WireGuard peer.

        The peer has the endpoint of one of the nodes. `turns` decides which, so that a false
        endpoint of one node does not keep the peer out of reach. A plain client gets no keepalives:
        they would wake it up.
        """
        carriers = nodes or gateways
        found = list(dict.fromkeys(filter(None, map(self.policy.endpoint_of, carriers))))
        # Without one, a relay or a name of an earlier endpoint is forgotten.
        endpoint = self.lookup(key, found[self.turns.get(key, 0) % len(found)] if found else PeerEndpoint())
        allowed = frozenset[Cidr]().union(
            *(access.addresses.allowed_ips(node.token_id) for node in nodes),
            *(self.networks_of(node.token_id) for node in carriers),
            *(self._clients.addresses(gateway.token_id) for gateway in gateways),
        )
        keepalive = 0 if all(node.via is not None for node in carriers) else self.policy.keepalive
        return Peer(key, allowed, endpoint, keepalive)


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


def keys_behind(
    peers: Mapping[PublicKey, Peer | PeerState], registry: Registry, addresses: AddressPlan
) -> frozenset[PublicKey]:
    """Return the keys of these peers, and of the plain clients whose addresses they have."""
    found = set(peers)
    for peer in peers.values():
        for token in addresses.tokens_at(peer.allowed_ips):
            node = registry.get(token)
            if node is not None and node.via is not None and isinstance(node.public_key, PublicKey):
                found.add(node.public_key)
    return frozenset(found)


def dependents(tokens: Iterable[TokenId], *registries: Registry) -> set[TokenId]:
    """Return the gateways of these tokens, and their plain clients, in any of the registries.

    A change of a token may affect them.
    """
    found: set[TokenId] = set()
    for token in tokens:
        for registry in registries:
            node = registry.get(token)
            if node is None:
                continue
            if node.via is not None:
                found |= registry.with_node_id(node.via)
            if isinstance(node.node_id, str):
                found |= registry.with_via(node.node_id)
    return found


def _since(node: Node) -> tuple[Position, TokenId]:
    """Return the sort key of nodes with one key: the earliest claim is first."""
    return node.key_since, node.token_id
