from dstack_vpn.adapters.chain.method_stats import WAITING, MethodStats
from dstack_vpn.core.chain.usage import Usage
from dstack_vpn.wiring.rpc_metrics import RpcMetrics


def test_durations_are_in_the_histogram_once() -> None:
    stats = MethodStats()
    metrics = RpcMetrics({"wss://a": {"eth_call": stats}}, dict)
    stats.add(0.002, failed=False)
    stats.add(0.3, failed=True)
    found: dict[tuple[str, ...], float] = {}
    for _ in range(2):
        found = {(s.name, *s.labels.values()): s.value for m in metrics.collect() for s in m.samples}
    assert found["dstack_vpn_rpc_errors_total", "wss://a", "eth_call"] == 1
    assert found["dstack_vpn_rpc_duration_seconds_count", "wss://a", "eth_call"] == 2
    assert found["dstack_vpn_rpc_duration_seconds_bucket", "wss://a", "eth_call", "0.0025"] == 1
    assert found["dstack_vpn_rpc_duration_seconds_sum", "wss://a", "eth_call"] == 0.302


def test_without_scrapes_durations_do_not_pile_up() -> None:
    stats = MethodStats()
    for _ in range(WAITING + 5):
        stats.add(0.1, failed=False)
    assert (stats.count, len(stats.durations)) == (WAITING + 5, WAITING)


def test_calls_notifications_and_bytes_have_series_by_endpoint_and_method() -> None:
    methods = {
        "eth_call": Usage(3, 300, 900),
        "eth_subscription": Usage(5, 0, 5000),
        "other": Usage(1, 0, 40),
    }
    metrics = RpcMetrics({}, lambda: {"wss://a": methods})
    found = {(s.name, *s.labels.values()): s.value for m in metrics.collect() for s in m.samples}
    assert found == {
        ("dstack_vpn_rpc_calls_total", "wss://a", "eth_call"): 3,
        ("dstack_vpn_rpc_unasked_messages_total", "wss://a", "eth_subscription"): 5,
        ("dstack_vpn_rpc_unasked_messages_total", "wss://a", "other"): 1,
        ("dstack_vpn_rpc_receive_bytes_total", "wss://a", "eth_call"): 900,
        ("dstack_vpn_rpc_receive_bytes_total", "wss://a", "eth_subscription"): 5000,
        ("dstack_vpn_rpc_receive_bytes_total", "wss://a", "other"): 40,
        ("dstack_vpn_rpc_transmit_bytes_total", "wss://a", "eth_call"): 300,
        ("dstack_vpn_rpc_transmit_bytes_total", "wss://a", "eth_subscription"): 0,
        ("dstack_vpn_rpc_transmit_bytes_total", "wss://a", "other"): 0,
    }
