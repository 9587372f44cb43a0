"""The life of a transaction and its failures. No transaction is sent twice."""

import pickle
import traceback
from typing import Any

import pytest
from tests.unit.adapters.admin.scripted import Answer, ScriptedTransport, caller_of

from dstack_vpn.adapters.admin import transactions
from dstack_vpn.adapters.admin.signer import Keyless, Signer, check_address
from dstack_vpn.adapters.admin.transactions import Receipt, TransactionSender
from dstack_vpn.adapters.contracts.abi import encode
from dstack_vpn.core.chain.unsent import Mode, Unsent, WithheldError
from dstack_vpn.errors import (
    AdminError,
    CallRevertedError,
    ChainError,
    ConfigError,
    EndpointError,
    FormatError,
    UnknownOutcomeError,
)

KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
CONTRACT = "0x" + "c0" * 20
ACCOUNT = "0x" + "aa" * 20
RECEIPT: dict[str, object] = {
    "status": "0x1",
    "blockNumber": "0x10",
    "gasUsed": "0x5208",
    "effectiveGasPrice": "0x2",
    "contractAddress": None,
    "logs": [],
}
ANSWERS: dict[str, Answer] = {
    "eth_call": "0x",
    "eth_estimateGas": hex(100_000),
    "eth_feeHistory": {"baseFeePerGas": ["0x1"], "reward": []},
    "eth_maxPriorityFeePerGas": "0x1",
    "eth_getBalance": hex(10**20),
    "eth_getTransactionCount": "0x7",
    "eth_sendRawTransaction": "0x" + "00" * 32,
    "eth_getTransactionReceipt": RECEIPT,
}


async def send(transport: ScriptedTransport, *, to: str | None = CONTRACT, timeout: float = 0.3) -> Receipt:
    steps: list[str] = []
    sender = TransactionSender(caller_of(transport), 31337, Signer(KEY), steps.append, timeout)
    return await sender.send(to, b"\x01\x02")


def scripted(**changed: Answer) -> ScriptedTransport:
    return ScriptedTransport({**ANSWERS, **changed})


async def test_all_goes_well() -> None:
    transport = scripted()
    receipt = await send(transport)
    assert (receipt.block, receipt.gas_used, receipt.fee, receipt.contract) == (16, 21000, 42000, None)
    assert transport.asked.count("eth_sendRawTransaction") == 1


async def test_what_is_signed_is_what_was_asked_for() -> None:
    from eth_account import Account
    from eth_account.typed_transactions.typed_transaction import TypedTransaction
    from hexbytes import HexBytes

    sent: list[str] = []

    def take(params: Any) -> str:
        sent.append(params[0])
        return "0x" + "00" * 32

    receipt = await send(scripted(eth_sendRawTransaction=take))
    fields = TypedTransaction.from_bytes(HexBytes(sent[0])).as_dict()
    assert (fields["chainId"], fields["nonce"], fields["gas"], fields["value"]) == (31337, 7, 120_000, 0)
    assert (bytes(fields["to"]).hex(), bytes(fields["data"])) == ("c0" * 20, b"\x01\x02")
    assert (fields["maxFeePerGas"], fields["maxPriorityFeePerGas"]) == (3, 1)
    assert Account.recover_transaction(sent[0]).lower() == Signer(KEY).address
    assert len(receipt.hash) == 66


def keyless(transport: ScriptedTransport, mode: Mode, account: str | None) -> TransactionSender:
    steps: list[str] = []
    return TransactionSender(caller_of(transport), 31337, Keyless(account), steps.append, 0.3, mode)


async def test_a_dry_run_simulates_and_sends_nothing() -> None:
    transport = scripted()
    with pytest.raises(WithheldError) as caught:
        await keyless(transport, Mode.DRY_RUN, ACCOUNT).send(CONTRACT, b"\x01\x02")
    # 120,000 units with the margin, at 3 wei.
    expected = Unsent(31337, CONTRACT, b"\x01\x02", ACCOUNT, 100_000, 360_000)
    assert caught.value.transactions == (expected,)
    assert {"eth_call", "eth_estimateGas"} <= set(transport.asked)
    assert "eth_sendRawTransaction" not in transport.asked
    with pytest.raises(AdminError, match="add its address with --sender"):
        await keyless(transport, Mode.DRY_RUN, None).send(CONTRACT, b"")


async def test_calldata_needs_no_account_and_is_simulated_with_one() -> None:
    transport = scripted()
    with pytest.raises(WithheldError) as caught:
        await keyless(transport, Mode.CALLDATA, None).send(None, b"\x01")
    assert caught.value.transactions == (Unsent(31337, None, b"\x01"),)
    assert transport.asked == []
    with pytest.raises(WithheldError) as caught:
        await keyless(transport, Mode.CALLDATA, ACCOUNT).send(CONTRACT, b"\x01")
    assert caught.value.transactions == (Unsent(31337, CONTRACT, b"\x01", ACCOUNT),)
    assert transport.asked == ["eth_call"]


@pytest.mark.parametrize("mode", [Mode.DRY_RUN, Mode.CALLDATA])
async def test_a_refusal_is_found_without_sending(mode: Mode) -> None:
    transport = scripted(eth_call=CallRevertedError("execution reverted", b""))
    with pytest.raises(AdminError, match="the contract refused"):
        await keyless(transport, mode, ACCOUNT).send(CONTRACT, b"")


@pytest.mark.parametrize("method", ["eth_call", "eth_estimateGas"])
async def test_a_refusal_is_named_and_nothing_is_sent(method: str) -> None:
    revert = CallRevertedError("execution reverted", bytes.fromhex("08c379a0") + encode("not the owner"))
    transport = scripted(**{method: revert})
    with pytest.raises(AdminError, match='the contract refused: reverted: "not the owner"; nothing was sent'):
        await send(transport)
    assert "eth_sendRawTransaction" not in transport.asked


@pytest.mark.parametrize(
    "method", ["eth_call", "eth_estimateGas", "eth_getBalance", "eth_getTransactionCount"]
)
async def test_before_sending_another_endpoint_may_be_tried(method: str) -> None:
    transport = scripted(**{method: EndpointError("broken")})
    with pytest.raises(ChainError, match="broken"):
        await send(transport)
    assert "eth_sendRawTransaction" not in transport.asked


async def test_a_refused_transaction_that_the_endpoint_knows_was_taken() -> None:
    known = scripted(
        eth_sendRawTransaction=EndpointError("already known"), eth_getTransactionByHash={"hash": 1}
    )
    assert (await send(known)).block == 16


@pytest.mark.parametrize(
    "words",
    [
        "already known",
        "ALREADY_EXISTS: already known",
        "Known transaction",
        "known transaction: 0x12",
        "transaction already imported",
        "Transaction with the same hash was already imported",
        "already in mempool",
        "nonce too low",
        "internal error",
        "the endpoint closed the connection",
    ],
)
async def test_what_was_taken_all_the_same_is_waited_for(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint does not know the transaction yet and returns its receipt a moment later."""
    monkeypatch.setattr(transactions, "_LOGS_LATE", 0.0)  # the receipt has no logs
    receipts: list[object] = [None, None, RECEIPT]

    def receipt(_: object) -> object:
        return receipts.pop(0) if len(receipts) > 1 else receipts[0]

    taken = scripted(
        eth_sendRawTransaction=EndpointError(words),
        eth_getTransactionByHash=None,
        eth_getTransactionReceipt=receipt,
    )
    assert (await send(taken, timeout=2)).block == 16
    assert taken.asked.count("eth_sendRawTransaction") == 1


@pytest.mark.parametrize(
    "words",
    ["transaction underpriced", "insufficient funds for gas * price + value", "intrinsic gas too low"],
)
async def test_what_the_endpoint_checked_and_refused_was_not_sent(words: str) -> None:
    refused = scripted(eth_sendRawTransaction=EndpointError(words), eth_getTransactionByHash=None)
    with pytest.raises(
        AdminError, match=f"refused the transaction, and nothing was sent: {words[:20]}"
    ) as caught:
        await send(refused)
    assert not isinstance(caught.value, UnknownOutcomeError)


@pytest.mark.parametrize("words", ["cut off", "nonce too low", "internal error", "unknown transaction"])
async def test_doubt_is_reported_as_doubt(words: str) -> None:
    doubtful = scripted(eth_sendRawTransaction=EndpointError(words), eth_getTransactionReceipt=None)
    with pytest.raises(UnknownOutcomeError, match=r"transaction 0x[0-9a-f]{64} was sent, but .* search for"):
        await send(doubtful)
    assert doubtful.asked.count("eth_sendRawTransaction") == 1


async def test_a_receipt_without_a_block_is_not_one_yet() -> None:
    with pytest.raises(UnknownOutcomeError, match="not seen in a block"):
        await send(scripted(eth_getTransactionReceipt={**RECEIPT, "blockNumber": None}))


LOG = {
    "address": CONTRACT,
    "topics": ["0x" + "11" * 32],
    "data": "0x",
    "blockNumber": "0x10",
    "blockHash": "0x" + "22" * 32,
    "logIndex": "0x0",
}


@pytest.mark.parametrize("status", ["0x1", "0x01", "1", 1, True, None, "0x" + "0" * 63 + "1"])
async def test_each_form_of_success_is_one(status: object) -> None:
    receipt = {**RECEIPT, "status": status, "logs": [LOG], "gasUsed": 21000, "blockNumber": "0x0010"}
    assert (await send(scripted(eth_getTransactionReceipt=receipt))).block == 16


async def test_logs_may_come_later() -> None:
    receipts = [RECEIPT, RECEIPT, {**RECEIPT, "logs": [LOG]}]

    def receipt(_: object) -> object:
        return receipts.pop(0) if len(receipts) > 1 else receipts[0]

    assert len((await send(scripted(eth_getTransactionReceipt=receipt), timeout=5)).logs) == 1


@pytest.mark.parametrize("answer", [None, EndpointError("busy"), "<html>", []])
async def test_waiting_ends_and_says_what_to_do(answer: Answer) -> None:
    with pytest.raises(
        UnknownOutcomeError, match=r"0x[0-9a-f]{64} was sent, but it was not seen .* may still be"
    ):
        await send(scripted(eth_getTransactionReceipt=answer))


async def test_a_lost_connection_ends_the_wait() -> None:
    transport = scripted(eth_getTransactionReceipt=EndpointError("cut"))

    def take(_: object) -> str:
        transport.failure = EndpointError("cut")
        return "0x"

    transport.answers = {**transport.answers, "eth_sendRawTransaction": take}
    with pytest.raises(UnknownOutcomeError, match=r"the connection was lost: cut\. It may have been mined"):
        await send(transport, timeout=60)


@pytest.mark.parametrize(
    "changed",
    [{"status": "revert"}, {"gasUsed": "x"}, {"logs": None}, {"logs": [{}]}, {"contractAddress": "x"}],
)
async def test_a_receipt_that_makes_no_sense_is_no_reason_to_send_again(changed: dict[str, object]) -> None:
    transport = scripted(eth_getTransactionReceipt={**RECEIPT, **changed})
    with pytest.raises(UnknownOutcomeError, match=r"0x[0-9a-f]{64} was mined, but its receipt is invalid"):
        await send(transport)


@pytest.mark.parametrize("status", ["0x0", "0x00", 0, False])
async def test_what_was_mined_and_reverted_is_told(status: object) -> None:
    with pytest.raises(AdminError, match="was mined but changed nothing"):
        await send(scripted(eth_getTransactionReceipt={**RECEIPT, "status": status}))


# -- the signer ------------------------------------------------------------------------------------


def test_the_key_does_not_show() -> None:
    signer = Signer("0x" + KEY)
    assert signer.address == "0x2c7536e3605d9c16a7a3d7b1898e529396a65c23"
    assert KEY not in repr(signer) + str(signer) + str(vars(type(signer)))
    assert not hasattr(signer, "__dict__")
    with pytest.raises(TypeError, match="can't be serialized"):
        pickle.dumps(signer)


@pytest.mark.parametrize("key", ["0" * 64, "f" * 64, "12", "zz", ""])
def test_a_key_that_is_none_is_not_quoted(key: str) -> None:
    with pytest.raises(ConfigError, match="CONTRACT_PRIVATE_KEY") as caught:
        Signer(key)
    shown = "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None
    assert len(key) < 4 or key not in shown


def test_an_addresss_checksum_is_held_to() -> None:
    good = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    for form in (good, good.lower(), "0x" + good[2:].upper()):
        assert check_address(form) == good.lower()
    with pytest.raises(FormatError, match="EIP-55"):
        check_address(good.replace("C8", "c8"))
