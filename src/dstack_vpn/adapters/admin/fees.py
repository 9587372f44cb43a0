"""The maximum fees of a transaction per unit of gas, in wei.

If the chain supports EIP-1559, the maximum is twice the next block's base fee, which suffices for
six full blocks in a row, plus the tip that the endpoint proposes. Otherwise it is the gas price.
"""

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from dstack_vpn.adapters.chain.caller import Caller
from dstack_vpn.adapters.chain.jsonrpc import Json
from dstack_vpn.errors import AdminError, CallRevertedError, EndpointError

GWEI: Final = 10**9
ETHER: Final = 10**18

HIGHEST: Final = 2000 * GWEI
"""A gas price that was never exceeded for long. An endpoint that asks for more is faulty or
malicious."""

_BLOCKS: Final = 5
_PERCENTILE: Final = 50
_AMOUNT: Final = re.compile(r"0[xX][0-9a-fA-F]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class DynamicFees:
    """Fees by EIP-1559."""

    max_fee: int
    tip: int

    @property
    def highest(self) -> int:
        """The maximum price of a unit of gas."""
        return self.max_fee

    @property
    def fields(self) -> dict[str, int]:
        """The transaction's fields."""
        return {"type": 2, "maxFeePerGas": self.max_fee, "maxPriorityFeePerGas": self.tip}


@dataclass(frozen=True, slots=True)
class LegacyFees:
    """One gas price, for a chain without EIP-1559."""

    gas_price: int

    @property
    def highest(self) -> int:
        """The maximum price of a unit of gas."""
        return self.gas_price

    @property
    def fields(self) -> dict[str, int]:
        """The transaction's fields."""
        return {"gasPrice": self.gas_price}


Fees: TypeAlias = DynamicFees | LegacyFees


async def propose(caller: Caller) -> Fees:
    """Return the fees to offer now.

    Raises `ChainError`, and `AdminError` if the endpoint's fees exceed `HIGHEST`.
    """
    base, tips = await _history(caller)
    if base is None:
        # A margin of one eighth, in case the price rises before the transaction is mined.
        price = amount(await caller.call("eth_gasPrice"), "gas price")
        return _checked(LegacyFees(price + price // 8))
    tip = await _tip(caller, tips)
    return _checked(DynamicFees(2 * base + tip, tip))


def _checked(fees: Fees) -> Fees:
    if fees.highest > HIGHEST:
        raise AdminError(
            f"the endpoint asks for {fees.highest / GWEI:,.0f} gwei a unit of gas, which is implausible: "
            "nothing was sent; use another RPC_URL"
        )
    return fees


async def _history(caller: Caller) -> tuple[int | None, list[int]]:
    """Return the next block's base fee (None before EIP-1559), and recent blocks' usual tips."""
    try:
        reply = await caller.call("eth_feeHistory", hex(_BLOCKS), "latest", [_PERCENTILE])
    except (EndpointError, CallRevertedError):
        if caller.transport.failure is not None:
            raise
        return None, []
    fees = reply.get("baseFeePerGas") if isinstance(reply, dict) else None
    if not isinstance(fees, list) or not fees:
        return None, []
    base = amount(fees[-1], "base fee")
    rewards = reply.get("reward")
    rows = rewards if isinstance(rewards, list) else []
    tips = [amount(row[0], "reward") for row in rows if isinstance(row, list) and row]
    return base or None, tips


async def _tip(caller: Caller, recent: list[int]) -> int:
    try:
        return amount(await caller.call("eth_maxPriorityFeePerGas"), "priority fee")
    except (EndpointError, CallRevertedError):
        if caller.transport.failure is not None:
            raise
        return sorted(recent)[len(recent) // 2] if recent else GWEI


def amount(value: Json, what: str) -> int:
    """Parse a number of up to 256 bits, hexadecimal or a JSON number. Raises `EndpointError`."""
    if type(value) is int and 0 <= value < 2**256:
        return value
    if not isinstance(value, str) or not _AMOUNT.fullmatch(value):
        raise EndpointError(f"the endpoint's {what} is not a hexadecimal number")
    return int(value, 16)


def ether(wei: int) -> str:
    """Format an amount in ether, exact to the last wei."""
    text = f"{wei // ETHER}.{wei % ETHER:018d}".rstrip("0")
    return f"{text.removesuffix('.')} ETH"
