"""The metrics of trust for Prometheus: the registry's age, the quorum, and the key's age."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dstack_vpn.core.observe.reports import KeyReport, QuorumReport, Reports

_QUORUM: Final = {
    "needed": "Endpoints that must show a grant before it counts.",
    "agreeing": "Endpoints that had our block and answered at the last audit, the followed one included.",
    "waiting": "Grants that wait for others to show them.",
}


def trust_families(reports: Reports) -> Iterator[Metric]:
    """Yield the registry's age, and if configured, the endpoints' agreement and our key's age."""
    members = reports.members
    if members.age is not None:
        yield GaugeMetricFamily(
            "dstack_vpn_registry_age_seconds",
            "Since the chain last confirmed what is known of it.",
            members.age,
        )
    yield GaugeMetricFamily(
        "dstack_vpn_registry_max_age_seconds", "What MAX_STALENESS allows.", members.max_staleness
    )
    yield GaugeMetricFamily(
        "dstack_vpn_isolated", "Whether there are no peers because that age is too high.", members.isolated
    )
    if reports.quorum is not None:
        yield from _quorum(reports.quorum)
    if reports.key is not None:
        yield from _key(reports.key)


def _key(report: KeyReport) -> Iterator[Metric]:
    if report.age is not None:
        yield GaugeMetricFamily(
            "dstack_vpn_key_age_seconds", "Since our own WireGuard key was set.", report.age
        )
    yield GaugeMetricFamily("dstack_vpn_key_max_age_seconds", "What KEY_MAX_AGE allows.", report.longest)
    tries = CounterMetricFamily(
        "dstack_vpn_key_changes", "Tries to announce another key of ours by its age.", labels=("outcome",)
    )
    tries.add_metric(("announced",), report.announced)
    tries.add_metric(("failed",), report.failed)
    yield tries


def _quorum(report: QuorumReport) -> Iterator[Metric]:
    for name, text in _QUORUM.items():
        yield GaugeMetricFamily(f"dstack_vpn_quorum_{name}", text, value=getattr(report, name))
    yield GaugeMetricFamily(
        "dstack_vpn_quorum_disputed", "Tokens that are out by one endpoint's word.", len(report.disputed)
    )
    yield GaugeMetricFamily(
        "dstack_vpn_quorum_contested",
        "Tokens about which endpoints contradict each other, and none can be outvoted.",
        len(report.contested),
    )
    held = GaugeMetricFamily(
        "dstack_vpn_rpc_quarantined", "Whether an endpoint is left alone for a lie.", labels=("endpoint",)
    )
    lies = CounterMetricFamily(
        "dstack_vpn_rpc_lies", "Times that an endpoint was found to lie.", labels=("endpoint",)
    )
    for name, times in report.contradictions.items():
        held.add_metric((name,), name in report.quarantined)
        lies.add_metric((name,), times)
    yield held
    yield lies
