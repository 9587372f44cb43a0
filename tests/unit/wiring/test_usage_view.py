from tests.unit.daemon.observe.test_rpc_usage import NOW, Used

from dstack_vpn.core.chain.budget import Budget
from dstack_vpn.core.chain.usage import NOTIFICATION, Usage
from dstack_vpn.core.chain.usage_days import DAY
from dstack_vpn.wiring.rpc_metrics import day_families
from dstack_vpn.wiring.usage_view import describe_usage


def rig() -> Used:
    used = Used()
    used.calls(2, after=60.0)
    used.source.used[NOTIFICATION] = Usage(7, 0, 7000)
    used.usage.days()
    return used


def test_all_sums_are_shown() -> None:
    used = rig()
    used.calls(1, after=float(DAY))
    found = describe_usage(used.usage, used.clock.now())
    name = used.source.name
    heads = {"count": 7, "sent": 0, "received": 7000}
    assert found["since_start"] == {
        "calls": 3,
        "notifications": 7,
        "sent": 3,
        "received": 7003,
        "endpoints": {name: {"eth_call": {"count": 3, "sent": 3, "received": 3}, NOTIFICATION: heads}},
    }
    assert found["last_days"] == found["since_start"]
    assert (found["today"]["date"], found["today"]["calls"], found["today"]["notifications"]) == (
        "2026-11-30",
        1,
        0,
    )
    assert found["today"]["endpoints"] == {name: {"eth_call": {"count": 1, "sent": 1, "received": 1}}}
    assert [(day["date"], day["calls"], day["seconds"]) for day in found["days"]] == [
        ("2026-11-29", 2, 60),
        ("2026-11-30", 1, DAY),
    ]
    assert found["budget"] is None
    assert found["estimate"] == {
        "seconds": DAY,
        "calls": 1,
        "notifications": 0,
        "sent": 1,
        "received": 1,
        "methods": {"eth_call": {"count": 1, "sent": 1, "received": 1}},
    }


def test_there_is_no_estimate_after_a_minute() -> None:
    used = rig()
    assert used.clock.now() == NOW + 60
    assert describe_usage(used.usage, used.clock.now())["estimate"] is None


def test_the_day_has_metrics() -> None:
    used = rig()
    found = {s.name: s.value for m in day_families(used.usage, used.clock.now()) for s in m.samples}
    assert found == {"dstack_vpn_rpc_today_calls": 2, "dstack_vpn_rpc_today_bytes": 7004}


def test_a_budget_is_shown() -> None:
    used = Used(budget=Budget(100))
    now = used.clock.now()
    assert describe_usage(used.usage, now)["budget"] == 100
    families = {metric.name: metric.samples[0].value for metric in day_families(used.usage, now)}
    assert families["dstack_vpn_rpc_budget_calls"] == 100
