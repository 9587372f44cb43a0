"""A node's metrics for Prometheus, collected on request, so that they do not affect the fast paths.

Names follow Prometheus' conventions: base units, ``_total`` for counters. Up to 200 peers have
individual series. A larger network has only sums, which limits the load on its monitoring.
"""

import platform
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dstack_vpn import __version__
from dstack_vpn.adapters.store.archive import FileArchive
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.events import Reading
from dstack_vpn.core.observe.health import Status
from dstack_vpn.daemon.daemon import Daemon
from dstack_vpn.wiring.peer_metrics import peer_families
from dstack_vpn.wiring.policy_metrics import policy_families
from dstack_vpn.wiring.rpc_metrics import day_families
from dstack_vpn.wiring.snapshot import NodeSnapshot
from dstack_vpn.wiring.trust_metrics import trust_families

if TYPE_CHECKING:
    from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp
    from dstack_vpn.adapters.web.server import HttpServer
    from dstack_vpn.adapters.web.stream import Streams

_PREFIX: Final = "dstack_vpn_"
Served: TypeAlias = tuple["HttpServer", "Streams"]
"""The web server, and the streams of events that it serves."""


def gather(
    node: Daemon,
    snapshot: NodeSnapshot,
    counted: Iterable[Metric],
    relay: "Tcp2Udp | None",
    web: Served | None,
) -> Callable[[], tuple[str, bytes]]:
    """Gather all metrics now, and return a function that renders them.

    ``counted`` are families of other modules, ``relay`` is the node's own, ``web`` its server.
    """
    families = [
        *_node(node, snapshot),
        *_chain(node, snapshot),
        *counted,
        *_plans(node, snapshot),
        *_peers_totals(node),
        *_web(web),
        *trust_families(snapshot.reports),
        *policy_families(node),
        *_networks(node),
        *day_families(node.rpc_usage, snapshot.now),
    ]
    if relay is not None:
        from dstack_vpn.adapters.relay.view import RelayMetrics

        families += RelayMetrics(relay).collect()
    archive = node.persistence.archive
    return lambda: _written(
        [*families, *_backups(archive), *peer_families(snapshot)]  # this reads files, and many peers
    )


class _Fixed(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yield the gathered families."""
        yield from self._families


def _written(families: list[Metric]) -> tuple[str, bytes]:
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    # An empty description: the registry does not need the families' names.
    fixed = _Fixed(families)
    setattr(fixed, "describe", list)  # noqa: B010 - an optional method, to the type checker
    registry.register(fixed)
    return CONTENT_TYPE_LATEST, generate_latest(registry)


def gauge(name: str, text: str, value: float | None) -> Iterator[Metric]:
    """Yield a gauge with one value; nothing for None."""
    if value is not None:
        yield GaugeMetricFamily(_PREFIX + name, text, value=value)


def counter(name: str, text: str, value: float) -> Metric:
    """Return a counter with one value."""
    return CounterMetricFamily(_PREFIX + name, text, value=value)


def _node(node: Daemon, snapshot: NodeSnapshot) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        f"{_PREFIX}build_info", "The running version; always 1.", labels=["version", "python"]
    )
    info.add_metric([__version__, platform.python_version()], 1)
    yield info
    yield from gauge(
        "start_time_seconds", "Start time of the node in Unix seconds.", snapshot.reports.started
    )
    yield from gauge("ready", "1 if the tunnel carries the registry's members.", snapshot.health.ready)
    status = GaugeMetricFamily(
        f"{_PREFIX}component_status",
        "Status of a component: 1 for its current status.",
        labels=["component", "status"],
    )
    for component in snapshot.health.components:
        for name in Status:
            status.add_metric([component.name, name.value], component.status is name)
    yield status
    yield counter("device_restarts", "Times that the device was set up again.", max(node.tunnel.restarts, 0))


def _chain(node: Daemon, snapshot: NodeSnapshot) -> Iterator[Metric]:
    state, report = node.chain.state, snapshot.reports.chain
    yield from gauge("chain_connected", "1 if an endpoint is followed.", report.problem is None)
    yield from gauge("chain_head_block", "Height of the newest block.", report.head)
    age = None if report.head_seen is None else max(snapshot.now - report.head_seen, 0)
    yield from gauge("chain_head_age_seconds", "Time since the newest block was seen.", age)
    yield from gauge("chain_lag_seconds", "Time by which the node is behind its endpoints.", report.behind)
    yield from gauge(
        "chain_lag_blocks", "Blocks by which the node is behind its endpoints.", report.blocks_behind
    )
    yield from gauge("registry_tokens", "Tokens in the registry.", len(state.follower.registry.nodes))
    contract = state.follower.registry.contract
    yield from gauge("registry_tags", "Tags that the registry defines.", len(contract.tag_names))
    yield from gauge("registry_minters", "Minters, without the owner.", len(contract.minters))
    yield from gauge(
        "registry_policy_administrators",
        "Policy administrators, without the owner.",
        len(contract.policy_administrators),
    )
    yield from gauge("registry_paused", "1 if no token can be minted.", contract.paused)
    yield from gauge("registry_policy_ready", "1 if the policy's text was read.", _policy_ready(contract))
    unconfirmed = sum(not isinstance(x.event, Reading) for x in state.follower.timeline.events)
    yield from gauge("chain_unconfirmed_events", "Events that a reorg can still undo.", unconfirmed)
    yield counter("chain_events", "Registry events that were processed.", state.events)
    yield counter("chain_confirmed_events", "Events that have become final.", state.confirmed)
    yield counter("chain_resyncs", "Full comparisons with the contract.", state.resyncs)
    yield counter("chain_audits", "The former name of dstack_vpn_chain_resyncs.", state.resyncs)


def _policy_ready(contract: ContractState) -> bool | None:
    """Return whether the text of the policy was read; None without a policy."""
    return None if contract.policy is None else not contract.lacks_text


def _plans(node: Daemon, snapshot: NodeSnapshot) -> Iterator[Metric]:
    executor, reports = node.reconciler.executor, snapshot.reports
    plans = CounterMetricFamily(f"{_PREFIX}plans", "Plans for the device, by outcome.", labels=["outcome"])
    for outcome in ("applied", "failed", "rolled_back"):
        count = {"applied": executor.plans, "failed": executor.failed, "rolled_back": executor.rolled_back}
        plans.add_metric([outcome], count[outcome])
    yield plans
    yield counter("peer_changes", "Changes of peers that the device has acknowledged.", executor.applied)
    held = "Removals held until a second reading of the chain."
    yield from gauge("brake_held_removals", held, reports.device.held)
    yield from gauge("config_pinned", "1 if an earlier configuration is pinned.", reports.members.pinned)


def _networks(node: Daemon) -> Iterator[Metric]:
    routes = node.members.routes
    if not routes.accept:
        return
    networks = GaugeMetricFamily(
        f"{_PREFIX}networks", "Accepted networks behind other nodes, by state.", labels=["state"]
    )
    conflicts = len(routes.conflicts)
    networks.add_metric(["used"], len(routes.networks or ()))
    networks.add_metric(["conflict"], conflicts)
    networks.add_metric(["unused"], len(routes.unused) - conflicts)
    yield networks
    yield counter("network_moves", "Moves of a network to another gateway.", routes.moves)


def _peers_totals(node: Daemon) -> Iterator[Metric]:
    peer_stats = node.peer_stats
    yield counter("receive_bytes", "Bytes from all peers, removed ones included.", peer_stats.received)
    yield counter("transmit_bytes", "Bytes to all peers, removed ones included.", peer_stats.sent)


def _web(served: Served | None) -> Iterator[Metric]:
    if served is None:
        return
    server, streams = served
    answers = CounterMetricFamily(
        f"{_PREFIX}http_answers", "HTTP requests, by the answer's status.", labels=["code"]
    )
    for status, count in server.answers.items():
        answers.add_metric([str(status)], count)
    yield answers
    yield from gauge("http_connections", "Current HTTP connections.", len(server.connections))
    yield counter(
        "http_refused_connections", "HTTP connections refused by a limit.", server.connections.refused
    )
    yield from gauge("http_streams", "Current readers of events.", len(streams))
    yield counter(
        "http_dropped_streams", "Readers of events dropped because they were too slow.", streams.dropped
    )


def _backups(archive: Any) -> Iterator[Metric]:  # noqa: ANN401 - may be another implementation of the port
    if not isinstance(archive, FileArchive):
        return
    yield from gauge("config_backups", "Existing backups of the wg-quick file.", len(archive.list()))
    yield counter("config_backups_written", "Backups written.", archive.written)
