"""The durations and errors of RPC calls for Prometheus."""

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, Metric

from dstack_vpn.adapters.chain.method_stats import Calls

LATENCIES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The buckets of durations, in seconds."""
_LABELS: Final = ("endpoint", "method")


class RpcMetrics:
    """Moves the durations of calls into histograms on each collection."""

    def __init__(self, calls: Mapping[str, Calls]) -> None:
        """Collect from ``calls``, which are by endpoint."""
        self._calls = calls
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
