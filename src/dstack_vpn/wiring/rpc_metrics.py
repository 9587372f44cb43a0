"""The durations and errors of RPC calls, and the bytes of messages, for Prometheus."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dstack_vpn.adapters.chain.method_stats import Calls
from dstack_vpn.core.chain.usage import UNASKED, UsageByEndpoint, total
from dstack_vpn.daemon.observe.rpc_usage import RpcUsage

LATENCIES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The buckets of durations, in seconds."""
_LABELS: Final = ("endpoint", "method")


class RpcMetrics:
    """Moves the durations of calls into histograms on each collection."""

    def __init__(self, calls: Mapping[str, Calls], usage: Callable[[], UsageByEndpoint]) -> None:
        """Collect from ``calls`` and from ``usage``, which are by endpoint."""
        self._calls, self._usage = calls, usage
        self._registry = CollectorRegistry()
        self._latencies = Histogram(
            "dstack_vpn_rpc_duration_seconds",
            "Durations of RPC calls.",
            _LABELS,
            registry=self._registry,
            buckets=LATENCIES,
        )

    def collect(self) -> Iterator[Metric]:
        """Yield the current metrics."""
        errors = CounterMetricFamily("dstack_vpn_rpc_errors", "RPC calls that failed.", labels=_LABELS)
        for endpoint, calls in self._calls.items():
            for method, stats in calls.items():
                errors.add_metric([endpoint, method], stats.errors)
                while stats.durations:
                    self._latencies.labels(endpoint, method).observe(stats.durations.popleft())
        yield errors
        yield from self._registry.collect()
        yield from usage_families(self._usage())


def usage_families(usage: UsageByEndpoint) -> Iterator[Metric]:
    """Yield the numbers of calls and notifications, and their bytes."""
    calls = CounterMetricFamily(
        "dstack_vpn_rpc_calls", "RPC calls that were sent, repeated ones included.", labels=_LABELS
    )
    unasked = CounterMetricFamily(
        "dstack_vpn_rpc_unasked_messages", "Notifications, and replies to no current call.", labels=_LABELS
    )
    received = CounterMetricFamily(
        "dstack_vpn_rpc_receive_bytes", "Bytes of JSON-RPC messages from endpoints.", labels=_LABELS
    )
    sent = CounterMetricFamily(
        "dstack_vpn_rpc_transmit_bytes", "Bytes of JSON-RPC messages to endpoints.", labels=_LABELS
    )
    for endpoint, methods in usage.items():
        for method, each in methods.items():
            (unasked if method in UNASKED else calls).add_metric([endpoint, method], each.count)
            received.add_metric([endpoint, method], each.received)
            sent.add_metric([endpoint, method], each.sent)
    yield from (calls, unasked, received, sent)


def day_families(usage: RpcUsage, now: float) -> Iterator[Metric]:
    """Yield the metrics of the day."""
    today = total(usage.days().today(now).usage)
    yield GaugeMetricFamily(
        "dstack_vpn_rpc_today_calls", "RPC calls since 00:00 UTC, kept over a restart.", value=today.calls
    )
    yield GaugeMetricFamily(
        "dstack_vpn_rpc_today_bytes",
        "Bytes of JSON-RPC messages since 00:00 UTC, kept over a restart.",
        value=today.bytes,
    )
    if usage.budget is not None:
        yield GaugeMetricFamily(
            "dstack_vpn_rpc_budget_calls", "The limit of RPC_DAILY_CALLS.", value=usage.budget.calls
        )
