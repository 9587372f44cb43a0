"""Event metrics for Prometheus: a listener of the event log."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import Metric

from dstack_vpn.core.observe.event import Entry
from dstack_vpn.core.observe.events import EVENTS, PeerRemoved, PeerSet, Reorged, RulesApplied

LATENCIES: Final = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
    10.0,
)
"""The buckets of latencies, in seconds."""
DEPTHS: Final = (1, 2, 3, 5, 8, 16, 32, 64, 128)
"""The buckets of reorg depths, in blocks."""


class EventMetrics:
    """The counters and histograms of the events passed to `take`."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no types for it
        self._registry = registry = CollectorRegistry()
        self._events = Counter(
            "dstack_vpn_events", "Events, by name: see /events.", ["event"], registry=registry
        )
        self._happenings = Counter(
            "dstack_vpn_happenings", "The former name of dstack_vpn_events.", ["kind"], registry=registry
        )
        self._engagements = Counter(
            "dstack_vpn_brake_engagements",
            "Times that the mass removal guard held removals.",
            registry=registry,
        )
        self._reorgs = Histogram(
            "dstack_vpn_chain_reorg_depth_blocks",
            "Reorgs, by the number of replaced blocks.",
            registry=registry,
            buckets=DEPTHS,
        )
        self._latencies = Histogram(
            "dstack_vpn_event_to_peer_seconds",
            "Time from a registry event's arrival to the device's acknowledgement of the peer.",
            registry=registry,
            buckets=LATENCIES,
        )
        self._rules = Histogram(
            "dstack_vpn_event_to_rule_seconds",
            "Time from a registry event's arrival to the kernel's acknowledgement of the policy's rules.",
            registry=registry,
            buckets=LATENCIES,
        )
        for name in EVENTS:
            self._events.labels(name)
            self._happenings.labels(name)

    def take(self, entry: Entry) -> None:
        """Count an event."""
        event = entry.event
        self._events.labels(event.name).inc()
        self._happenings.labels(event.name).inc()
        if event.name == "brake.engaged":
            self._engagements.inc()
        if isinstance(event, Reorged):
            self._reorgs.observe(event.depth)
        if isinstance(event, PeerSet | PeerRemoved) and event.latency is not None:
            self._latencies.observe(event.latency)
        if isinstance(event, RulesApplied) and event.latency is not None:
            self._rules.observe(event.latency)

    def collect(self) -> Iterator[Metric]:
        """Yield the current metrics."""
        yield from self._registry.collect()
