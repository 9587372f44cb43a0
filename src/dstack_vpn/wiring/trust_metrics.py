"""The metrics of trust for Prometheus: the registry's age, the quorum, early removals, our key."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dstack_vpn.core.observe.reports import EarlyReport, KeyReport, QuorumReport, Reports

_QUORUM: Final = {
    "needed": "Endpoints that must confirm a grant.",
    "agreeing": "Endpoints that had the node's block and replied at the last resync, including the one "
    "in use.",
    "waiting": "Grants that wait for the confirmation of other endpoints.",
}


def trust_families(reports: Reports) -> Iterator[Metric]:
    """Yield the registry's age, and the metrics of settings that are in use."""
    members = reports.members
    if members.age is not None:
        yield GaugeMetricFamily(
            "dstack_vpn_registry_age_seconds",
            "Time since the chain last confirmed the registry.",
            members.age,
        )
    yield GaugeMetricFamily(
        "dstack_vpn_registry_max_age_seconds", "The limit of MAX_STALENESS.", members.max_staleness
    )
    yield GaugeMetricFamily(
        "dstack_vpn_isolated", "1 if the node has no peers because that age is too high.", members.isolated
    )
    if reports.quorum is not None:
        yield from _quorum(reports.quorum)
    if reports.early is not None:
        yield from _early(reports.early)
    if reports.key is not None:
        yield from _key(reports.key)


def _early(report: EarlyReport) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "dstack_vpn_early_available", "1 if the endpoint announces pre-confirmed events.", report.available
    )
    yield GaugeMetricFamily(
        "dstack_vpn_early_removed_tokens",
        "Tokens that are out by blocks that are not confirmed yet.",
        len(report.tokens),
    )
    ended = CounterMetricFamily(
        "dstack_vpn_early_removals", "Early removals that have ended.", labels=("outcome",)
    )
    ended.add_metric(("confirmed",), report.confirmed)
    ended.add_metric(("false",), report.false)
    yield ended


def _key(report: KeyReport) -> Iterator[Metric]:
    if report.age is not None:
        yield GaugeMetricFamily("dstack_vpn_key_age_seconds", "Age of the node's WireGuard key.", report.age)
    yield GaugeMetricFamily("dstack_vpn_key_max_age_seconds", "The limit of KEY_MAX_AGE.", report.longest)
    tries = CounterMetricFamily(
        "dstack_vpn_key_changes", "Rotations of the node's key by its age.", labels=("outcome",)
    )
    tries.add_metric(("announced",), report.announced)
    tries.add_metric(("failed",), report.failed)
    yield tries


def _quorum(report: QuorumReport) -> Iterator[Metric]:
    for name, text in _QUORUM.items():
        yield GaugeMetricFamily(f"dstack_vpn_quorum_{name}", text, value=getattr(report, name))
    yield GaugeMetricFamily(
        "dstack_vpn_quorum_disputed", "Tokens revoked by a single endpoint's reply.", len(report.disputed)
    )
    yield GaugeMetricFamily(
        "dstack_vpn_quorum_contested",
        "Tokens on which endpoints contradict each other without a majority.",
        len(report.contested),
    )
    held = GaugeMetricFamily(
        "dstack_vpn_rpc_quarantined", "1 if an endpoint is in quarantine.", labels=("endpoint",)
    )
    contradictions = CounterMetricFamily(
        "dstack_vpn_rpc_contradictions", "Times that an endpoint was contradicted.", labels=("endpoint",)
    )
    former = CounterMetricFamily(
        "dstack_vpn_rpc_lies", "The former name of dstack_vpn_rpc_contradictions.", labels=("endpoint",)
    )
    for name, times in report.contradictions.items():
        held.add_metric((name,), name in report.quarantined)
        contradictions.add_metric((name,), times)
        former.add_metric((name,), times)
    yield held
    yield contradictions
    yield former
