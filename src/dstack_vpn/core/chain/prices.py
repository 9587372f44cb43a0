"""Price tables of RPC providers: the units that each call and each byte of a notification cost.

A table has units and no currency, because the price of a unit depends on the plan. A provider is
included if its documentation has both the price of each method and that of notifications. Tables
change: each has the date at which it was read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dstack_vpn.core.chain.usage import NOTIFICATION, UNASKED, Usage


@dataclass(frozen=True, slots=True)
class PriceTable:
    """The prices of one provider."""

    provider: str
    unit: str
    read: str
    """The date at which the table was read."""
    source: str
    calls: Mapping[str, float]
    """Units for each call, by method."""
    notified_byte: float
    """Units for each byte of a notification."""

    def cost(self, usage: Mapping[str, Usage]) -> int:
        """Return the units for a use by method.

        Raises `KeyError` for a method that is not in the table.
        """
        calls = sum(self.calls[name] * each.count for name, each in usage.items() if name not in UNASKED)
        return round(calls + self.notified_byte * usage.get(NOTIFICATION, Usage()).received)


ALCHEMY: Final = PriceTable(
    provider="Alchemy",
    unit="compute units",
    read="2026-11-29",
    source="https://www.alchemy.com/docs/reference/compute-unit-costs",
    calls={
        "eth_blockNumber": 10,
        "eth_call": 26,
        "eth_chainId": 0,
        "eth_getBalance": 20,
        "eth_getBlockByHash": 20,
        "eth_getBlockByNumber": 20,
        "eth_getCode": 20,
        "eth_getLogs": 60,
        "eth_getProof": 20,
        "eth_subscribe": 10,
        "eth_unsubscribe": 10,
    },
    notified_byte=0.04,
)

TABLES: Final = (ALCHEMY,)
