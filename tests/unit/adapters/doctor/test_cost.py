from typing import Any

from dstack_vpn.adapters.doctor.cost import cost
from dstack_vpn.core.observe.check import CheckStatus

METHODS = {
    "eth_call": {"count": 100, "sent": 1, "received": 1},
    "eth_subscription": {"count": 432_000, "sent": 0, "received": 500_000_000},
}
ESTIMATE: dict[str, Any] = {
    "seconds": 3600,
    "calls": 100,
    "notifications": 432_000,
    "sent": 30_000,
    "received": 500_000_000,
    "methods": METHODS,
}


def test_the_sentence_has_calls_bytes_and_the_price() -> None:
    check = cost({"peers": [], "rpc": {"estimate": ESTIMATE, "budget": 100}})
    assert check.status is CheckStatus.PASS
    assert check.found == (
        "this node costs about 100 calls, 432,000 notifications and 500.0 MB a day, by 60 minutes of "
        "observation; with Alchemy's price table of 2026-11-29 that is about 20,002,600 compute units a day"
    )


def test_a_method_without_a_price_is_named() -> None:
    methods = METHODS | {"eth_new": {"count": 1, "sent": 0, "received": 0}}
    found = cost({"rpc": {"estimate": ESTIMATE | {"methods": methods}, "budget": None}}).found
    assert found.endswith("the price is not known: it lacks eth_new")


def test_without_an_observation_there_is_no_number() -> None:
    assert cost({}).found == "not known: no daemon runs here"
    assert cost({"peers": []}).found == "not known: the daemon is an older one"
    assert cost({"rpc": {"estimate": None}}).found.startswith("not known yet: an estimate needs 10 minutes")


def test_more_calls_than_the_budget_are_a_warning() -> None:
    check = cost({"rpc": {"estimate": ESTIMATE, "budget": 99}})
    assert check.status is CheckStatus.WARN
    assert check.found.endswith("; RPC_DAILY_CALLS permits 99 calls")
    assert check.advice == "raise RPC_DAILY_CALLS or SYNC_INTERVAL"
