"""A node's metrics for Prometheus, read when it asks."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dstack_vpn.bridge.node import Node
from dstack_vpn.core.keys import PublicKey

if TYPE_CHECKING:
    from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp

_LABELS: Final = ("node_id", "token")
_COUNTERS: Final = {
    "datagrams_up": "Datagrams that a relay took from WireGuard for a peer.",
    "datagrams_down": "Datagrams that a relay gave WireGuard from a peer.",
    "reconnects": "Connections to a peer's relays that took the place of a lost one.",
    "stalls": "Times that a peer's relay was left because answers were overdue.",
}


Way = Callable[[PublicKey], dict[str, Any]]
"""How a peer is reached."""


def exposition(node: Node, way: Way, relay: "Tcp2Udp | None") -> tuple[str, bytes]:
    """A content type and a body."""
    registry = CollectorRegistry()
    registry.register(_Peers(node, way))
    if relay is not None:
        from dstack_vpn.adapters.relay.view import RelayMetrics

        registry.register(RelayMetrics(relay))
    return CONTENT_TYPE_LATEST, generate_latest(registry)


class _Peers(Collector):
    def __init__(self, node: Node, way: Way) -> None:
        self._node, self._way = node, way

    def collect(self) -> Iterator[Metric]:
        """How each peer is reached."""
        described = list(self._described())
        ways = GaugeMetricFamily(
            "dstack_vpn_peer_transport", "How a peer is reached.", labels=(*_LABELS, "transport")
        )
        for labels, found in described:
            ways.add_metric((*labels, found["transport"] or "none"), 1)
        yield ways
        relayed = [(labels, found["relay"]) for labels, found in described if found["relay"]]
        for name, text in _COUNTERS.items():
            counter = CounterMetricFamily(f"dstack_vpn_peer_relay_{name}", text, labels=_LABELS)
            for labels, seen in relayed:
                counter.add_metric(labels, seen[name])
            yield counter
        yield _drops(relayed)
        yield from _gauges(relayed)

    def _described(self) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
        members = self._node.tunnel.members
        for key, token in members.membership.tokens.items():
            entry = members.follower.registry.get(token)
            name = "" if entry is None else str(entry.node_id)
            yield (name, str(token)), self._way(key)


_Relayed = list[tuple[tuple[str, str], dict[str, Any]]]


def _drops(relayed: _Relayed) -> Metric:
    drops = CounterMetricFamily(
        "dstack_vpn_peer_relay_dropped_datagrams",
        "Datagrams that a peer's relay did not carry on.",
        labels=(*_LABELS, "reason"),
    )
    for labels, seen in relayed:
        for reason, count in seen["drops"].items():
            drops.add_metric((*labels, reason), count)
    return drops


def _gauges(relayed: _Relayed) -> Iterator[Metric]:
    queued = GaugeMetricFamily(
        "dstack_vpn_peer_relay_queued_bytes", "Bytes that wait for a peer's relay.", labels=_LABELS
    )
    rtt = GaugeMetricFamily(
        "dstack_vpn_peer_relay_rtt_seconds",
        "Round trip to a peer's relay, as TCP measures it.",
        labels=_LABELS,
    )
    for labels, seen in relayed:
        queued.add_metric(labels, seen["queued_bytes"])
        if seen["rtt_ms"] is not None:
            rtt.add_metric(labels, seen["rtt_ms"] / 1000)
    yield queued
    yield rtt
