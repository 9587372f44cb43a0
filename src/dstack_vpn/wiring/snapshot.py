"""A node's state at one moment, gathered without a pause and rendered outside of the event loop.

A snapshot does not change: registries, peers and device states are frozen, and mappings that change
are copied.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from dstack_vpn import __version__
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import Cidr, Malformed, Peer, PeerState, TokenId
from dstack_vpn.core.observe.health import Health
from dstack_vpn.core.observe.reports import Reports
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.core.wireguard.wire import SESSION_LIFE
from dstack_vpn.daemon.daemon import Daemon
from dstack_vpn.wiring.usage_view import describe_usage

if TYPE_CHECKING:
    from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp

Way: TypeAlias = dict[str, Any]
"""``transport`` and ``relay`` of a peer, as `daemon.peers.paths.Paths.describe` has them."""

PEER_STATES: Final = ("connected", "no answer", "stale", "never")
"""A peer has a session, does not answer, had a session, or never had one."""
_BY_UDP: Way = {"transport": "udp", "relay": None}


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """The state of a node and its peers at one moment."""

    now: float
    """Unix seconds."""
    health: Health
    registry: Registry
    peers: Mapping[PublicKey, Peer]
    tokens: Mapping[PublicKey, TokenId]
    networks: frozenset[Cidr]
    """The networks among the allowed IPs of peers."""
    seen: Mapping[PublicKey, PeerState]
    silent: Mapping[PublicKey, float]
    """The peers that do not answer, with the time since when (Unix seconds)."""
    round_trips: Mapping[PublicKey, float]
    """The round trips through the tunnel (seconds) to the peers that were measured lately."""
    relayed: Mapping[PublicKey, Way]
    """The transports of the peers that have relays."""
    carried: Counter[str]
    """The summed counters of all relays to peers."""
    calls_by: str | None
    """The scheme of the node's relay: the transport of peers whose endpoint is on this machine."""
    reports: Reports
    common: dict[str, Any]
    """`stats` without the peers."""

    def way(self, key: PublicKey) -> Way:
        """Return a peer's transport and relay; over this node's relay, its endpoint is loopback."""
        way, state = self.relayed.get(key, _BY_UDP), self.seen.get(key)
        calls = state is not None and state.endpoint is not None and state.endpoint.is_loopback
        return way | {"transport": self.calls_by} if calls and way["relay"] is None and self.calls_by else way

    def age(self, key: PublicKey) -> float | None:
        """Return the seconds since the last handshake with a peer; None if there was none."""
        state = self.seen.get(key)
        return (
            None if state is None or not state.last_handshake else max(self.now - state.last_handshake, 0.0)
        )

    def state(self, key: PublicKey) -> str:
        """Return a peer's state: one of `PEER_STATES`."""
        if key in self.silent:
            return "no answer"
        age = self.age(key)
        if age is None:
            return "never"
        return "connected" if age <= SESSION_LIFE else "stale"

    def peer(self, key: PublicKey) -> dict[str, Any]:
        """Return a peer as JSON values."""
        peer, token = self.peers[key], self.tokens[key]
        state, entry = self.seen.get(key), self.registry.get(token)
        seen_at = peer.endpoint if state is None or state.endpoint is None else state.endpoint
        return {
            "node_id": None if entry is None else str(entry.node_id),
            "token": token,
            "owner": None if entry is None else entry.owner,
            "public_key": str(key),
            "addresses": sorted(peer.allowed_ips - self.networks),
            "tags": [] if entry is None else list(self.registry.contract.tags_of(entry.tags)),
            "routes": [] if entry is None or isinstance(entry.routes, Malformed) else list(entry.routes),
            "endpoint": None if seen_at is None else str(seen_at),
            **self.way(key),
            "state": self.state(key),
            "no_answer_since": self.silent.get(key),
            "round_trip_ms": round(trip * 1000, 3) if (trip := self.round_trips.get(key)) else None,
            "last_handshake": None if state is None else state.last_handshake or None,
            "rx_bytes": None if state is None else state.rx_bytes,
            "tx_bytes": None if state is None else state.tx_bytes,
            "reason": "active",
            "since_block": None if entry is None else entry.key_since.block,
            "expires_at": None if entry is None else entry.expires_at or None,
        }

    def all_peers(self) -> dict[str, Any]:
        """Return the peers alone."""
        return {"now": self.now, "peers": [self.peer(key) for key in self.peers]}

    def stats(self) -> dict[str, Any]:
        """Return the node and its peers."""
        return {**self.common, **self.all_peers()}


def take(node: Daemon, relay: "Tcp2Udp | None", seen: Mapping[PublicKey, PeerState]) -> NodeSnapshot:
    """Return the node's state now; ``seen`` are the peers at the last reading of the device."""
    members, membership = node.tunnel.members, node.tunnel.members.membership
    reports = node.reporter.collect()
    relayed = node.path_keeper.paths.describe_all()
    return NodeSnapshot(
        now=node.tunnel.clock.now(),
        health=node.health.verdict(),
        registry=members.follower.registry,
        peers=dict(membership.peers),
        tokens=dict(membership.tokens),
        networks=frozenset(membership.networks),
        seen=seen,
        silent={key: since for key in membership.peers if (since := node.answers.since(key)) is not None},
        round_trips={
            key: trip for key in membership.peers if (trip := node.roles.round_trip(key)) is not None
        },
        relayed=relayed,
        carried=node.path_keeper.paths.carried(relayed),
        calls_by=None if relay is None else relay.listen.scheme,
        reports=reports,
        common=_common(node, relay, reports),
    )


def _common(node: Daemon, relay: "Tcp2Udp | None", reports: Reports) -> dict[str, Any]:
    members, state, chain = node.tunnel.members, node.chain.state, reports.chain
    own, executor = members.own_node, node.reconciler.executor
    return {
        "version": __version__,
        "started": reports.started,
        "node_id": members.identity.node_id if own is None else str(own.node_id),
        "token": None if own is None else own.token_id,
        "public_key": str(members.own_key),
        "addresses": sorted(node.tunnel.own_addresses),
        "interface": node.tunnel.name,
        "device_restarts": max(node.tunnel.restarts, 0),
        "chain": {
            "endpoint": chain.endpoint,
            "head": chain.head,
            "head_seen": chain.head_seen,
            "synced": members.synced,
            "stale": members.stale,
            "events": state.events,
            "reorgs": state.reorgs,
            "resyncs": state.resyncs,
            "audits": state.resyncs,  # its former name
        },
        "networks": list(members.routes.describe()),
        "tokens": len(members.follower.registry.nodes),
        "relay": None if relay is None else relay.snapshot() | asdict(relay.counters),
        "changes_applied": executor.applied,
        "changes_rolled_back": executor.rolled_back,
        "rpc": describe_usage(node.rpc_usage, node.tunnel.clock.now()),
        "device_read": node.peer_stats.at,
        "event_to_peer_ms": _percentiles(node.reconciler.latencies),
        "reports": asdict(reports),
    }


def _percentiles(seconds: Collection[float]) -> dict[str, float] | None:
    if len(seconds) < 2:
        return None
    cuts = quantiles(seconds, n=100, method="inclusive")
    return {"p50": round(cuts[49] * 1000, 3), "p99": round(cuts[98] * 1000, 3)}
