import re
from pathlib import Path

import pytest

from dstack_vpn.core.chain.prices import ALCHEMY, TABLES, PriceTable
from dstack_vpn.core.chain.usage import NOTIFICATION, OTHER, UNASKED, Usage

CHAIN = Path(__file__).parents[4] / "src" / "dstack_vpn" / "adapters" / "chain"


def test_calls_cost_by_method_and_notifications_by_the_byte() -> None:
    use = {
        "eth_call": Usage(10, 5000, 90_000),
        "eth_chainId": Usage(100, 1, 1),
        NOTIFICATION: Usage(432_000, 0, 432_000_000),
        OTHER: Usage(5, 0, 10_000),
    }
    assert ALCHEMY.cost(use) == 10 * 26 + 432_000_000 * 0.04
    assert ALCHEMY.cost({}) == 0


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.provider)
def test_a_table_has_every_method_that_a_daemon_calls(table: PriceTable) -> None:
    sources = "".join(path.read_text() for path in CHAIN.glob("*.py"))
    methods = set(re.findall(r'"((?:eth|net|web3)_[A-Za-z]+)"', sources))
    assert {"eth_call", "eth_getLogs"} <= methods
    assert methods - UNASKED <= table.calls.keys()


def test_a_method_without_a_price_is_an_error() -> None:
    with pytest.raises(KeyError, match="eth_new"):
        ALCHEMY.cost({"eth_new": Usage(1)})
