"""The cost of a node at its RPC endpoints, from the running daemon's ``/stats``."""

from collections.abc import Mapping
from typing import Any

from dstack_vpn.core.chain.prices import TABLES, PriceTable
from dstack_vpn.core.chain.usage import Usage
from dstack_vpn.core.chain.usage_days import ENOUGH
from dstack_vpn.core.observe.check import Check, passed, warned

NAME = "rpc cost"


def cost(daemon: Mapping[str, Any]) -> Check:
    """Return the calls and bytes to expect for a day, with the price by each known table.

    It is a warning if the calls exceed the budget.
    """
    rpc = daemon.get("rpc")
    if rpc is None:
        found = "not known: no daemon runs here" if not daemon else "not known: the daemon is an older one"
        return passed(NAME, found)
    estimate = rpc["estimate"]
    if estimate is None:
        minutes = f"{ENOUGH / 60:.0f} minutes"
        return passed(NAME, f"not known yet: an estimate needs {minutes}, and the daemon has just started")
    methods = {name: Usage(**each) for name, each in estimate["methods"].items()}
    megabytes = (estimate["sent"] + estimate["received"]) / 1e6
    used = f"{estimate['calls']:,} calls, {estimate['notifications']:,} notifications and {megabytes:,.1f} MB"
    observed = f"by {estimate['seconds'] / 60:.0f} minutes of observation"
    prices = [_priced(table, methods) for table in TABLES]
    found = "; ".join([f"this node costs about {used} a day, {observed}", *prices])
    budget = rpc["budget"]
    if budget and estimate["calls"] > budget:
        advice = "raise RPC_DAILY_CALLS or SYNC_INTERVAL"
        return warned(NAME, f"{found}; RPC_DAILY_CALLS permits {budget:,} calls", advice)
    return passed(NAME, found)


def _priced(table: PriceTable, methods: Mapping[str, Usage]) -> str:
    name = f"with {table.provider}'s price table of {table.read}"
    try:
        return f"{name} that is about {table.cost(methods):,} {table.unit} a day"
    except KeyError as error:
        return f"{name} the price is not known: it lacks {error.args[0]}"
