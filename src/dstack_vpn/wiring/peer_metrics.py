"""The metrics of peers: sums, and series for each peer up to a limit of peers."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.wiring.snapshot import PEER_STATES, NodeSnapshot

ONE_BY_ONE: Final = 200
"""The limit of peers with individual series; above it there are only sums."""

_PREFIX: Final = "dstack_vpn_"
_LABELS: Final = ("node_id", "token")
_COUNTERS: Final = {
    "datagrams_up": "Datagrams that a relay took from WireGuard for a peer.",
    "datagrams_down": "Datagrams that a relay gave WireGuard from a peer.",
    "reconnects": "Connections to a peer's relays that replaced a lost one.",
    "stalls": "Times that a peer's relay was left because answers were overdue.",
}
_TRANSPORTS: Final = ("udp", "tcp", "tls", "none")
_Labelled = list[tuple[tuple[str, str], PublicKey]]


def peer_families(snapshot: NodeSnapshot) -> Iterator[Metric]:
    """Yield all metrics of peers."""
    yield from _sums(snapshot)
    yield from _relay_sums(snapshot)
    if len(snapshot.peers) > ONE_BY_ONE:
        return
    labelled: _Labelled = []
    for key, token in snapshot.tokens.items():
        entry = snapshot.registry.get(token)
        labelled.append((("" if entry is None else str(entry.node_id), str(token)), key))
    yield from _each(snapshot, labelled)
    relayed = [(labels, relay) for labels, key in labelled if (relay := snapshot.way(key)["relay"])]
    yield from _relays(relayed)


def _sums(snapshot: NodeSnapshot) -> Iterator[Metric]:
    found = Counter((snapshot.state(key), snapshot.way(key)["transport"] or "none") for key in snapshot.peers)
    peers = GaugeMetricFamily(
        f"{_PREFIX}peers",
        "Peers by transport and state: connected, no_answer (bytes sent, none received), stale, never.",
        labels=("state", "transport"),
    )
    for state in PEER_STATES:
        for transport in _TRANSPORTS:
            peers.add_metric((state.replace(" ", "_"), transport), found[state, transport])
    yield peers
    ages = [age for key in snapshot.peers if (age := snapshot.age(key)) is not None]
    if ages:
        yield GaugeMetricFamily(
            f"{_PREFIX}oldest_handshake_age_seconds",
            "Time since the last handshake, for the peer with the oldest one.",
            value=max(ages),
        )


def _relay_sums(snapshot: NodeSnapshot) -> Iterator[Metric]:
    """Yield the sums of all relays to peers, ended relays included."""
    carried = snapshot.carried
    for what in ("datagrams", "bytes"):
        family = CounterMetricFamily(
            f"{_PREFIX}peers_relay_{what}",
            f"Traffic of relays to peers, in {what}.",
            labels=["direction"],
        )
        for direction in ("up", "down"):
            family.add_metric([direction], carried[f"{what}_{direction}"])
        yield family
    drops = CounterMetricFamily(
        f"{_PREFIX}peers_relay_dropped_datagrams",
        "Datagrams that relays to peers dropped.",
        labels=["reason"],
    )
    for name, count in carried.items():
        if name.startswith("dropped "):
            drops.add_metric([name.removeprefix("dropped ")], count)
    yield drops
    text = "Connections to peers' relays that replaced a lost one."
    yield CounterMetricFamily(f"{_PREFIX}peers_relay_reconnects", text, value=carried["reconnects"])


def _each(snapshot: NodeSnapshot, labelled: _Labelled) -> Iterator[Metric]:
    ways = GaugeMetricFamily(
        f"{_PREFIX}peer_transport", "The transport to a peer.", labels=(*_LABELS, "transport")
    )
    ages = GaugeMetricFamily(
        f"{_PREFIX}peer_handshake_age_seconds", "Time since a peer's last handshake.", labels=_LABELS
    )
    silent = GaugeMetricFamily(
        f"{_PREFIX}peer_unanswered_seconds",
        "Time for which bytes were sent to a peer and none received; 0 while it answers or is idle.",
        labels=_LABELS,
    )
    trips = GaugeMetricFamily(
        f"{_PREFIX}peer_round_trip_seconds",
        "Smoothed round-trip time to a peer through the tunnel, while it is measured.",
        labels=_LABELS,
    )
    received = CounterMetricFamily(f"{_PREFIX}peer_receive_bytes", "Bytes from a peer.", labels=_LABELS)
    sent = CounterMetricFamily(f"{_PREFIX}peer_transmit_bytes", "Bytes to a peer.", labels=_LABELS)
    for labels, key in labelled:
        ways.add_metric((*labels, snapshot.way(key)["transport"] or "none"), 1)
        if (trip := snapshot.round_trips.get(key)) is not None:
            trips.add_metric(labels, trip)
        if (state := snapshot.seen.get(key)) is None:
            continue
        silent.add_metric(labels, max(snapshot.now - snapshot.silent.get(key, snapshot.now), 0.0))
        received.add_metric(labels, state.rx_bytes)
        sent.add_metric(labels, state.tx_bytes)
        if (age := snapshot.age(key)) is not None:
            ages.add_metric(labels, age)
    yield from (ways, ages, silent, trips, received, sent)


_Relayed = list[tuple[tuple[str, str], dict[str, Any]]]


def _relays(relayed: _Relayed) -> Iterator[Metric]:
    for name, text in _COUNTERS.items():
        counter = CounterMetricFamily(f"{_PREFIX}peer_relay_{name}", text, labels=_LABELS)
        for labels, seen in relayed:
            counter.add_metric(labels, seen[name])
        yield counter
    drops = CounterMetricFamily(
        f"{_PREFIX}peer_relay_dropped_datagrams",
        "Datagrams that a peer's relay dropped.",
        labels=(*_LABELS, "reason"),
    )
    queued = GaugeMetricFamily(
        f"{_PREFIX}peer_relay_queued_bytes", "Bytes waiting for a peer's relay.", labels=_LABELS
    )
    rtt = GaugeMetricFamily(
        f"{_PREFIX}peer_relay_rtt_seconds",
        "Round-trip time to a peer's relay, as TCP measures it.",
        labels=_LABELS,
    )
    for labels, seen in relayed:
        for reason, count in seen["drops"].items():
            drops.add_metric((*labels, reason), count)
        queued.add_metric(labels, seen["queued_bytes"])
        if seen["rtt_ms"] is not None:
            rtt.add_metric(labels, seen["rtt_ms"] / 1000)
    yield from (drops, queued, rtt)
