"""A running node as it is seen from outside."""

from collections.abc import Collection
from dataclasses import asdict
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from dstack_vpn import __version__
from dstack_vpn.bridge.node import Node
from dstack_vpn.core.health import Health, evaluate
from dstack_vpn.core.keys import PublicKey

if TYPE_CHECKING:
    from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp


class NodeView:
    """What can be seen of a running node: implements `adapters.web.server.View`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.relay: Tcp2Udp | None = None
        """What lets peers reach us over TCP or TLS."""

    def health(self) -> Health:
        """The verdict now."""
        return evaluate(self._node.facts, self._node.tunnel.clock.now())

    def stats(self) -> dict[str, Any]:
        """Counters and peers, as JSON can hold them."""
        node, facts = self._node, self._node.facts
        members, state = node.tunnel.members, node.chain.state
        own = members.own_node
        return {
            "version": __version__,
            "started": facts.started,
            "node_id": members.own_node_id if own is None else str(own.node_id),
            "token": None if own is None else own.token_id,
            "public_key": str(members.own_key),
            "addresses": [] if own is None else sorted(members.addresses.allowed_ips(own.token_id)),
            "interface": node.tunnel.name,
            "device_restarts": max(node.tunnel.restarts, 0),
            "chain": {
                "endpoint": facts.endpoint,
                "head": facts.head,
                "head_seen": facts.head_seen,
                "synced": facts.synced,
                "stale": facts.stale,
                "events": state.events,
                "reorgs": state.reorgs,
                "audits": state.audits,
            },
            "tokens": len(members.follower.registry.nodes),
            "relay": None if self.relay is None else self.relay.snapshot() | asdict(self.relay.counters),
            "peers": [self._peer(key) for key in members.membership.peers],
            "changes_applied": node.reconciler.applied,
            "changes_rolled_back": node.reconciler.failed,
            "event_to_peer_ms": _percentiles(node.reconciler.latencies),
            "facts": asdict(facts),
        }

    def metrics(self) -> tuple[str, bytes]:
        """For Prometheus: a content type and a body."""
        from dstack_vpn.wiring.metrics import exposition

        return exposition(self._node, self._way, self.relay)

    def _way(self, key: PublicKey) -> dict[str, Any]:
        """How a peer is reached; one that calls by our relay is heard from this machine."""
        way, state = self._node.transports.describe(key), self._node.peers_seen.get(key)
        calls = state is not None and state.endpoint is not None and state.endpoint.is_loopback
        if way["relay"] is None and calls and self.relay is not None:
            way["transport"] = self.relay.listen.scheme
        return way

    def _peer(self, key: PublicKey) -> dict[str, Any]:
        node = self._node
        members = node.tunnel.members
        peer, token = members.membership.peers[key], members.membership.tokens[key]
        state, entry = node.peers_seen.get(key), members.follower.registry.get(token)
        seen_at = peer.endpoint if state is None or state.endpoint is None else state.endpoint
        return {
            "node_id": None if entry is None else str(entry.node_id),
            "token": token,
            "owner": None if entry is None else entry.owner,
            "public_key": str(key),
            "addresses": sorted(peer.allowed_ips),
            "endpoint": None if seen_at is None else str(seen_at),
            **self._way(key),
            "last_handshake": None if state is None else state.last_handshake or None,
            "rx_bytes": None if state is None else state.rx_bytes,
            "tx_bytes": None if state is None else state.tx_bytes,
        }


def _percentiles(seconds: Collection[float]) -> dict[str, float] | None:
    if len(seconds) < 2:
        return None
    cuts = quantiles(seconds, n=100, method="inclusive")
    return {"p50": round(cuts[49] * 1000, 3), "p99": round(cuts[98] * 1000, 3)}
