"""What a node believes and whom, for Prometheus."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dstack_vpn.bridge.node import Node
from dstack_vpn.core.health import QuorumFacts
from dstack_vpn.core.keyage import KeyFacts

_QUORUM: Final = {
    "needed": "Endpoints that must show a grant before it counts.",
    "agreeing": "Endpoints that had our block and answered at the last audit, the followed one included.",
    "waiting": "Grants that wait for others to show them.",
}


def trust_families(node: Node) -> Iterator[Metric]:
    """How old what is known is, and how the endpoints agree, where several have to."""
    facts = node.facts
    if facts.age is not None:
        yield GaugeMetricFamily(
            "dstack_vpn_registry_age_seconds",
            "Since the chain last confirmed what is known of it.",
            facts.age,
        )
    yield GaugeMetricFamily(
        "dstack_vpn_registry_max_age_seconds", "What MAX_STALENESS allows.", facts.max_staleness
    )
    yield GaugeMetricFamily(
        "dstack_vpn_isolated", "Whether there are no peers because that age is too high.", facts.isolated
    )
    if (quorum := node.facts.quorum) is not None:
        yield from _quorum(quorum)
    if facts.key is not None:
        yield from _key(facts.key)


def _key(facts: KeyFacts) -> Iterator[Metric]:
    if facts.age is not None:
        yield GaugeMetricFamily(
            "dstack_vpn_key_age_seconds", "Since our own WireGuard key was set.", facts.age
        )
    yield GaugeMetricFamily("dstack_vpn_key_max_age_seconds", "What KEY_MAX_AGE allows.", facts.longest)
    tries = CounterMetricFamily(
        "dstack_vpn_key_changes", "Tries to announce another key of ours by its age.", labels=("outcome",)
    )
    tries.add_metric(("announced",), facts.announced)
    tries.add_metric(("failed",), facts.failed)
    yield tries


def _quorum(facts: QuorumFacts) -> Iterator[Metric]:
    for name, text in _QUORUM.items():
        yield GaugeMetricFamily(f"dstack_vpn_quorum_{name}", text, value=getattr(facts, name))
    yield GaugeMetricFamily(
        "dstack_vpn_quorum_disputed", "Tokens that are out by one endpoint's word.", len(facts.disputed)
    )
    yield GaugeMetricFamily(
        "dstack_vpn_quorum_contested",
        "Tokens about which endpoints contradict each other, and none can be outvoted.",
        len(facts.contested),
    )
    held = GaugeMetricFamily(
        "dstack_vpn_rpc_quarantined", "Whether an endpoint is left alone for a lie.", labels=("endpoint",)
    )
    lies = CounterMetricFamily(
        "dstack_vpn_rpc_lies", "Times that an endpoint was found to lie.", labels=("endpoint",)
    )
    for name, times in facts.lies.items():
        held.add_metric((name,), name in facts.quarantined)
        lies.add_metric((name,), times)
    yield held
    yield lies
