"""Fee offers, with and without a base fee and the endpoint's optional methods."""

import pytest
from tests.unit.adapters.admin.scripted import Answer, ScriptedTransport, caller_of

from dstack_vpn.adapters.admin.fees import GWEI, DynamicFees, Fees, LegacyFees, amount, ether, propose
from dstack_vpn.errors import AdminError, EndpointError

HISTORY = {"baseFeePerGas": ["0x5", "0x9", "0xa"], "reward": [["0x1"], ["0x7"], ["0x3"]]}


async def proposed(**answers: Answer) -> Fees:
    return await propose(caller_of(ScriptedTransport(answers)))


async def test_twice_the_next_base_fee_and_the_proposed_tip() -> None:
    fees = await proposed(eth_feeHistory=HISTORY, eth_maxPriorityFeePerGas="0x4")
    assert fees == DynamicFees(24, 4)
    assert fees.fields == {"type": 2, "maxFeePerGas": 24, "maxPriorityFeePerGas": 4}


async def test_the_median_tip_where_none_is_proposed() -> None:
    assert await proposed(eth_feeHistory=HISTORY) == DynamicFees(23, 3)


async def test_a_usual_tip_where_nobody_paid_any() -> None:
    fees = await proposed(eth_feeHistory={"baseFeePerGas": ["0xa"], "reward": None})
    assert fees == DynamicFees(20 + GWEI, GWEI)


@pytest.mark.parametrize(
    "history",
    [EndpointError("no"), None, [], {}, {"baseFeePerGas": []}, {"baseFeePerGas": ["0x0", "0x0"]}],
)
async def test_a_gas_price_where_there_is_no_base_fee(history: Answer) -> None:
    fees = await proposed(eth_feeHistory=history, eth_gasPrice="0x320")
    assert fees == LegacyFees(900)
    assert fees.fields == {"gasPrice": 900}


async def test_an_absurd_fee_is_refused() -> None:
    absurd = hex(10**15)
    for answers in (
        {"eth_feeHistory": HISTORY, "eth_maxPriorityFeePerGas": absurd},
        {"eth_feeHistory": {"baseFeePerGas": [absurd]}, "eth_maxPriorityFeePerGas": "0x1"},
        {"eth_gasPrice": absurd},
    ):
        with pytest.raises(AdminError, match="gwei a unit of gas, which is implausible: nothing was sent"):
            await proposed(**answers)


async def test_a_connection_that_is_lost_is_no_missing_method() -> None:
    transport = ScriptedTransport({}, failure=EndpointError("lost"))
    with pytest.raises(EndpointError):
        await propose(caller_of(transport))


@pytest.mark.parametrize("value", [None, -1, True, "", "0x", "1", "0xg", "0x" + "f" * 65, "0x1\n", ["0x1"]])
def test_what_is_no_amount(value: object) -> None:
    with pytest.raises(EndpointError, match="not a hexadecimal number"):
        amount(value, "balance")


@pytest.mark.parametrize(
    ("wei", "text"),
    [(0, "0 ETH"), (1, "0.000000000000000001 ETH"), (10**18, "1 ETH"), (10**22 + 10**17, "10000.1 ETH")],
)
def test_amounts_for_people_are_exact(wei: int, text: str) -> None:
    assert ether(wei) == text
