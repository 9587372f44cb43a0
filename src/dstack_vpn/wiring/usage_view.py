"""The use of RPC endpoints as JSON values, for ``/stats``."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dstack_vpn.core.chain.usage import Usage, UsageByEndpoint, by_method, total
from dstack_vpn.daemon.observe.rpc_usage import RpcUsage


def describe_usage(usage: RpcUsage, now: float) -> dict[str, Any]:
    """Return the use since the start, today, in the last days, and for a whole day."""
    days = usage.days()
    today, estimate = days.today(now), days.estimate(now)
    expected = None
    if estimate is not None:
        methods = by_method(estimate.usage)
        expected = {"seconds": round(estimate.seconds), **_sums(estimate.usage), "methods": _plain(methods)}
    return {
        "since_start": _described(usage.since_start()),
        "today": {"date": today.name, "seconds": round(today.seconds), **_described(today.usage)},
        "last_days": _described(days.together()),
        "days": [{"date": day.name, "seconds": round(day.seconds), **_sums(day.usage)} for day in days.days],
        "estimate": expected,
        "budget": None if usage.budget is None else usage.budget.calls,
    }


def _described(usage: UsageByEndpoint) -> dict[str, Any]:
    return {**_sums(usage), "endpoints": {name: _plain(methods) for name, methods in usage.items()}}


def _sums(usage: UsageByEndpoint) -> dict[str, int]:
    return asdict(total(usage))


def _plain(methods: Mapping[str, Usage]) -> dict[str, dict[str, int]]:
    return {method: asdict(each) for method, each in methods.items()}
