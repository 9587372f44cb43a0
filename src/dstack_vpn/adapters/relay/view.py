"""A relay's public view: health, counters, metrics."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final, TypeAlias

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp
from dstack_vpn.adapters.relay.udp2tcp import Udp2Tcp
from dstack_vpn.core.observe.health import Component, Health, Status

Service: TypeAlias = Udp2Tcp | Tcp2Udp

_COUNTERS: Final = {
    "accepted": "UDP sources or connections that were accepted.",
    "refused": "UDP sources or connections that a limit refused.",
    "connects": "Attempts to connect to an upstream.",
    "connect_failures": "Attempts to connect to an upstream that failed.",
    "reconnects": "Connections that replaced a lost one.",
    "handshake_failures": "TLS handshakes with clients that failed.",
    "foreign": "Connections that used another protocol.",
    "stalls": "Times that an upstream was left because answers were overdue.",
}
"""The fields of `Counters` that are exported unchanged."""


class RelayView:
    """Implements `adapters.web.server.View`."""

    def __init__(self, service: Service, version: str, started: float) -> None:
        self.service, self._version, self._started = service, version, started
        self._registry = CollectorRegistry()
        self._registry.register(RelayMetrics(service))

    def health(self) -> Health:
        """Return the current health."""
        service = self.service
        component = _upstream_health(service) if isinstance(service, Udp2Tcp) else _listener_health(service)
        return Health(ready=component.status is not Status.FAILED, components=(component,))

    def stats(self) -> dict[str, Any]:
        """Return the state and the counters, as JSON values."""
        service = self.service
        return {
            "version": self._version,
            "started": self._started,
            "mode": "udp2tcp" if isinstance(service, Udp2Tcp) else "tcp2udp",
            "listen": str(service.address),
            "offload_missing": service.engine.offload.missing,
            **service.snapshot(),
            **asdict(service.counters),
        }

    def metrics(self) -> tuple[str, bytes]:
        """Return the content type and the body for Prometheus."""
        return CONTENT_TYPE_LATEST, generate_latest(self._registry)


SILENT: Final = 15.0
"""Seconds without an answer after which health shows a warning."""


def _listener_health(service: Tcp2Udp) -> Component:
    if problem := service.problem:
        return Component("relay", Status.WARNING, problem)
    return Component("relay", Status.OK, "accepting connections")


def _upstream_health(service: Udp2Tcp) -> Component:
    flows = service.flows
    carried = [flow for flow in flows if flow.upstream is not None]
    if not flows:
        return Component("upstream", Status.OK, "no source has sent a datagram")
    if problem := service.problem:
        return Component("upstream", Status.FAILED, problem)
    if (silence := service.unanswered()) >= SILENT:
        name = "no upstream" if service.current is None else service.current.name
        reason = f"{name}: no answer for {silence:.0f} s: WireGuard there is down, or it is not a relay"
        return Component("upstream", Status.WARNING, reason)
    if any(flow.upstream != service.upstreams[0] for flow in carried):
        reason = f"the preferred upstream, {service.upstreams[0].name}, is not in use"
        return Component("upstream", Status.WARNING, reason)
    return Component("upstream", Status.OK, f"using {service.upstreams[0].name}")


class RelayMetrics(Collector):
    """Reads the counters at each scrape, so the fast paths need no metrics code."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield one family per counter."""
        counters, snapshot = self._service.counters, self._service.snapshot()
        yield _directed("datagrams", "Datagrams carried.", counters.datagrams_up, counters.datagrams_down)
        yield _directed("bytes", "Bytes of datagrams carried.", counters.bytes_up, counters.bytes_down)
        drops = CounterMetricFamily(_name("dropped_datagrams"), "Datagrams dropped.", labels=["reason"])
        for reason, count in counters.drops.items():
            drops.add_metric([reason], count)
        yield drops
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(_name(name), text, value=getattr(counters, name))
        for name, text in (
            ("connections", "Current sources or connections."),
            ("queued_bytes", "Bytes waiting in the relay."),
        ):
            yield GaugeMetricFamily(_name(name), text, value=snapshot[name])
        if isinstance(self._service, Udp2Tcp):
            yield from _upstream_metrics(self._service, snapshot)


def _upstream_metrics(service: Udp2Tcp, snapshot: dict[str, Any]) -> Iterator[Metric]:
    used = GaugeMetricFamily(
        _name("upstream_connections"), "Sources that an upstream carries.", labels=["upstream"]
    )
    carried = [flow.upstream for flow in service.flows]
    for upstream in service.upstreams:
        used.add_metric([upstream.name], carried.count(upstream))
    yield used
    if snapshot["rtt_ms"] is not None:
        rtt = snapshot["rtt_ms"] / 1000
        yield GaugeMetricFamily(
            _name("rtt_seconds"), "Round trip to the upstream, as TCP measures it.", value=rtt
        )


def _directed(name: str, text: str, up: int, down: int) -> Metric:
    family = CounterMetricFamily(_name(name), text, labels=["direction"])
    family.add_metric(["udp_to_tcp"], up)
    family.add_metric(["tcp_to_udp"], down)
    return family


def _name(name: str) -> str:
    return f"dstack_vpn_relay_{name}"
