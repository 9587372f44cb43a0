"""Sends one transaction and waits until it is mined, with a precise outcome.

The order of the steps makes a retry safe: simulate (a revert is reported with the contract's named
error), estimate gas, determine the fees, check the balance, sign, send, wait. Until the transaction
is signed nothing has happened, and a `ChainError` means that another endpoint may be tried. From
sending on there are three outcomes, and none of them sends another transaction:

    mined       a `Receipt`, or an `AdminError` if it was mined and reverted
    refused     an `AdminError`: the endpoint checked the transaction and did not accept it
    unknown     an `UnknownOutcomeError` with the hash: it may still be mined
"""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from dstack_vpn.adapters.admin.fees import amount, ether, propose
from dstack_vpn.adapters.admin.signer import Keyless, SignedTransaction, Signer
from dstack_vpn.adapters.chain.caller import Caller
from dstack_vpn.adapters.chain.fields import mapping, parse_log, quantity, sequence
from dstack_vpn.adapters.chain.jsonrpc import Json
from dstack_vpn.adapters.contracts.reverts import describe_revert
from dstack_vpn.core.chain.unsent import Mode, Unsent, WithheldError
from dstack_vpn.core.model import Address
from dstack_vpn.errors import AdminError, CallRevertedError, ChainError, EndpointError, UnknownOutcomeError
from dstack_vpn.ports import Log

Progress = Callable[[str], None]
"""Called with a short description of each step."""

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
_LOGS_LATE: Final = 4.0
"""Seconds by which a receipt's logs or status may follow its block."""
_TAKEN: Final = re.compile(
    "already.?(known|imported|exists|in (the )?(mem|tx)?pool)|(?<!un)known transaction|same hash was already",
    re.IGNORECASE,
)
"""The endpoint already has this transaction."""
_MAYBE_OURS: Final = re.compile("nonce", re.IGNORECASE)
"""A used nonce may be used by this transaction, if it was mined in the meantime."""
_REFUSED: Final = re.compile(
    "underpriced|insufficient funds|intrinsic gas|gas limit|fee.{0,40}(too low|less than|cap)|chain.?id|"
    "invalid (sender|signature|chain|transaction)|not supported|replacement|method not found|does not exist|"
    "unauthori[sz]ed|HTTP status 40[1345]",
    re.IGNORECASE,
)
"""The endpoint checked the transaction and did not accept it."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A transaction that was mined and did not revert."""

    hash: str
    block: int
    gas_used: int
    fee: int
    """Wei, without the data fee of a rollup."""
    contract: Address | None
    """The deployed contract's address."""
    logs: tuple[tuple[Address, Log], ...] = ()

    @property
    def fee_text(self) -> str:
        """The fee in ether."""
        return ether(self.fee)


@dataclass(frozen=True, slots=True)
class TransactionSender:
    """Sends transactions of one account to one chain."""

    caller: Caller
    chain_id: int
    signer: Signer | Keyless
    progress: Progress
    timeout: float
    """Seconds to wait for a receipt."""
    mode: Mode = Mode.SEND

    async def send(self, to: Address | None, data: bytes) -> Receipt:
        """Send a transaction and wait for its receipt. ``to`` None creates a contract.

        Raises `ChainError` and `AdminError`, as the module describes, and `WithheldError` in
        another mode than `Mode.SEND`.
        """
        if self.mode is Mode.CALLDATA:
            raise WithheldError([await self._content(to, data)])
        self.progress("simulating")
        transaction = {"from": self.signer.address, "data": "0x" + data.hex()}
        if to is not None:
            transaction["to"] = to
        await self._simulate(transaction)
        gas, fields = await self._complete(to, data, transaction)
        if self.mode is Mode.DRY_RUN:
            fee = fields["gas"] * fields.get("maxFeePerGas", fields.get("gasPrice"))
            raise WithheldError([Unsent(self.chain_id, to, data, self.signer.address, gas, fee)])
        assert isinstance(self.signer, Signer)
        signed = self.signer.sign(fields)
        self.progress(f"sending transaction {signed.hash}")
        await self._submit(signed)
        self.progress(f"waiting for transaction {signed.hash} to be mined")
        receipt = await self._wait(signed.hash)
        if _succeeded(receipt) is False:
            raise await self._reverted(signed.hash, receipt, transaction)
        return _parse_receipt(signed.hash, receipt)

    async def _content(self, to: Address | None, data: bytes) -> Unsent:
        """Return the transaction for another wallet, after a simulation if its account is known."""
        sender = self.signer.known if isinstance(self.signer, Keyless) else self.signer.address
        if sender is not None:
            self.progress("simulating")
            target = {} if to is None else {"to": to}
            await self._simulate({"from": sender, "data": "0x" + data.hex(), **target})
        return Unsent(self.chain_id, to, data, sender)

    def _refusal(self, error: CallRevertedError) -> AdminError:
        return AdminError(f"the contract refused: {self._reason(error)}; nothing was sent")

    def _reason(self, error: CallRevertedError) -> str:
        """Return the contract's reason, which is text from the endpoint."""
        return describe_revert(error.data, self.caller.transport.url.redactor.beginning)

    async def _simulate(self, transaction: dict[str, str]) -> None:
        try:
            await self.caller.call("eth_call", transaction, "latest")
        except CallRevertedError as error:
            raise self._refusal(error) from error

    async def _complete(
        self, to: Address | None, data: bytes, call: dict[str, str]
    ) -> tuple[int, dict[str, Any]]:
        """Return the estimated gas, and the transaction's fields with a margin of gas."""
        try:
            estimate = quantity(await self.caller.call("eth_estimateGas", call), "gas estimate")
        except CallRevertedError as error:
            raise self._refusal(error) from error
        gas = estimate + estimate // 5
        fees = await propose(self.caller)
        await self._check_balance(gas * fees.highest)
        count = await self.caller.call("eth_getTransactionCount", self.signer.address, "pending")
        fields = {"chainId": self.chain_id, "nonce": quantity(count, "nonce"), "gas": gas, "value": 0}
        target = {} if to is None else {"to": bytes.fromhex(to.removeprefix("0x"))}
        return estimate, {**fields, **target, "data": data, **fees.fields}

    async def _check_balance(self, cost: int) -> None:
        reply = await self.caller.call("eth_getBalance", self.signer.address, "latest")
        balance = amount(reply, "balance")
        if balance < cost:
            raise AdminError(
                f"the account {self.signer.address} has {ether(balance)}, but the transaction may cost up to "
                f"{ether(cost)}; nothing was sent"
            )

    # -- from here on there may be a transaction ---------------------------------------------------

    async def _submit(self, signed: SignedTransaction) -> None:
        """Send the transaction once.

        After an error it may have been accepted, unless the error excludes that. A retry may have
        met its own first attempt ("already known", "nonce too low").
        """
        try:
            await self.caller.call("eth_sendRawTransaction", "0x" + signed.raw.hex())
        except ChainError as error:
            if _TAKEN.search(str(error)) or await self._is_known(signed.hash):
                return
            if _REFUSED.search(str(error)) and not _MAYBE_OURS.search(str(error)):
                raise AdminError(
                    f"the endpoint refused the transaction, and nothing was sent: {error}"
                ) from error
            self.progress(f"the endpoint replied {error}: looking for the transaction")

    async def _is_known(self, hash_: str) -> bool:
        """Return True if the endpoint returns the transaction. It may not have it yet."""
        try:
            return await self.caller.call("eth_getTransactionByHash", hash_) is not None
        except ChainError:
            return False

    async def _wait(self, hash_: str) -> dict[str, Json]:
        """Return the receipt once it is complete. Absorbs the endpoint's errors until the timeout.

        A null reply means that the receipt is not available yet, as does a receipt without a block.
        Logs may follow the receipt, so a receipt without logs is requested again for a moment.
        """
        ends, pause = time.monotonic() + self.timeout, _FIRST_PAUSE
        incomplete_until: float | None = None
        last: ChainError | None = None
        while True:
            receipt: Json = None
            try:
                receipt = await self.caller.call("eth_getTransactionReceipt", hash_)
            except ChainError as error:
                last = error
                if self.caller.transport.failure is not None:
                    raise UnknownOutcomeError(_lost(hash_, f"the connection was lost: {error}")) from error
            now = time.monotonic()
            if isinstance(receipt, dict) and receipt.get("blockNumber") is not None:
                incomplete_until = (
                    min(now + _LOGS_LATE, ends) if incomplete_until is None else incomplete_until
                )
                if _is_complete(receipt) or now >= incomplete_until:
                    return receipt
            elif now + pause > ends:
                raise UnknownOutcomeError(
                    _lost(hash_, f"it was not seen in a block within {self.timeout:g} s")
                ) from last
            await asyncio.sleep(min(pause, max(ends - now, 0.01)))
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    async def _reverted(
        self, hash_: str, receipt: dict[str, Json], transaction: dict[str, str]
    ) -> AdminError:
        """Return the error for a transaction that was mined and reverted.

        The state changed between the simulation and the block, so the call is repeated to get the
        contract's reason.
        """
        reason = "reverted"
        try:
            await self.caller.call("eth_call", transaction, receipt.get("blockNumber"))
        except CallRevertedError as error:
            reason = f"the contract refused: {self._reason(error)}"
        except ChainError as error:
            reason = f"it reverted, and the endpoint gives no reason ({error})"
        return AdminError(f"transaction {hash_} was mined but changed nothing: {reason}")


def _lost(hash_: str, why: str) -> str:
    return (
        f"transaction {hash_} was sent, but {why}. It may have been mined, or may still be: check with "
        "'dstack-vpn node info', or search for its hash, before you send another"
    )


def _succeeded(receipt: dict[str, Json]) -> bool | None:
    """Return True if it did not revert. None if the receipt does not show it.

    A receipt without a status (as before EIP-658) shows it by its logs: a reverted transaction has
    none.
    """
    status = receipt.get("status")
    if isinstance(status, bool):
        return status
    if status is None:
        return True if receipt.get("logs") else None
    status = {"0": 0, "1": 1}.get(str(status), status)
    try:
        return amount(status, "status") != 0
    except EndpointError:
        return None


def _is_complete(receipt: dict[str, Json]) -> bool:
    """Return True if the receipt has a status, and logs unless it created a contract."""
    if _succeeded(receipt) is None:
        return False
    return _succeeded(receipt) is False or bool(receipt.get("logs")) or bool(receipt.get("contractAddress"))


def _parse_receipt(hash_: str, receipt: dict[str, Json]) -> Receipt:
    try:
        if _succeeded(receipt) is None:
            amount(receipt.get("status"), "receipt's status")
        gas = amount(receipt.get("gasUsed"), "receipt's gas")
        price = receipt.get("effectiveGasPrice")
        return Receipt(
            hash_,
            amount(receipt.get("blockNumber"), "receipt's block number"),
            gas,
            gas * (0 if price is None else amount(price, "gas price")),
            _contract(receipt.get("contractAddress")),
            tuple(_logs(receipt.get("logs"))),
        )
    except EndpointError as error:
        raise UnknownOutcomeError(
            f"transaction {hash_} was mined, but its receipt is invalid: {error}. Check with "
            "'dstack-vpn node info', or search for its hash, before you send another"
        ) from error


def _contract(value: Json) -> Address | None:
    return None if value is None else f"0x{amount(value, 'contract address'):040x}"


def _logs(value: Json) -> list[tuple[Address, Log]]:
    return [
        (f"0x{amount(mapping(log, 'log').get('address'), 'address'):040x}", parse_log(log))
        for log in sequence(value, "receipt's logs")
    ]
