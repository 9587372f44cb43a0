"""Getting one transaction mined, or saying precisely what became of it.

The order is what makes it safe to try: simulate (a revert is shown by the contract's named error), estimate,
price, check the balance, sign, send, wait. Up to and including signing nothing has happened, and a
`ChainError` says so: another endpoint may be tried. From sending on every failure is an `AdminError` that
names the transaction's hash, for the transaction may be mined all the same; it is never sent twice.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from dstack_vpn.adapters.admin.fees import amount, ether, propose
from dstack_vpn.adapters.admin.signer import SignedTransaction, Signer
from dstack_vpn.adapters.chain.caller import Caller
from dstack_vpn.adapters.chain.fields import mapping, parse_log, quantity, sequence
from dstack_vpn.adapters.chain.jsonrpc import Json
from dstack_vpn.adapters.contracts.reverts import describe_revert
from dstack_vpn.core.model import Address
from dstack_vpn.errors import AdminError, CallRevertedError, ChainError, EndpointError
from dstack_vpn.ports import Log

Tell = Callable[[str], None]
"""Told what is being done, in a few words."""

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0


@dataclass(frozen=True, slots=True)
class Receipt:
    """A transaction that was mined and did not revert."""

    hash: str
    block: int
    gas_used: int
    fee: int
    """Wei, without what a rollup adds for its data."""
    contract: Address | None
    """What it deployed."""
    logs: tuple[tuple[Address, Log], ...] = ()

    @property
    def fee_text(self) -> str:
        """The fee for people."""
        return ether(self.fee)


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends transactions of one account to one chain."""

    caller: Caller
    chain_id: int
    signer: Signer
    tell: Tell
    timeout: float
    """Seconds to wait for a receipt."""

    async def send(self, to: Address | None, data: bytes) -> Receipt:
        """Have it mined; ``to`` None creates a contract. Raises `ChainError` and `AdminError`, see above."""
        self.tell("simulating")
        transaction = {"from": self.signer.address, "data": "0x" + data.hex()}
        if to is not None:
            transaction["to"] = to
        await self._simulate(transaction)
        signed = self.signer.sign(await self._complete(to, data, transaction))
        self.tell(f"sending transaction {signed.hash}")
        await self._submit(signed)
        self.tell(f"waiting for transaction {signed.hash} to be mined")
        receipt = await self._wait(signed.hash)
        if receipt.get("status") != "0x1":
            raise await self._reverted(signed.hash, receipt, transaction)
        return _parse_receipt(signed.hash, receipt)

    async def _simulate(self, transaction: dict[str, str]) -> None:
        try:
            await self.caller.call("eth_call", transaction, "latest")
        except CallRevertedError as error:
            raise _refusal(error) from error

    async def _complete(self, to: Address | None, data: bytes, call: dict[str, str]) -> dict[str, Any]:
        """The transaction's fields, gas and fees included."""
        try:
            estimate = quantity(await self.caller.call("eth_estimateGas", call), "gas estimate")
        except CallRevertedError as error:
            raise _refusal(error) from error
        gas = estimate + estimate // 5
        fees = await propose(self.caller)
        await self._check_balance(gas * fees.highest)
        count = await self.caller.call("eth_getTransactionCount", self.signer.address, "pending")
        fields = {"chainId": self.chain_id, "nonce": quantity(count, "nonce"), "gas": gas, "value": 0}
        target = {} if to is None else {"to": bytes.fromhex(to.removeprefix("0x"))}
        return {**fields, **target, "data": data, **fees.fields}

    async def _check_balance(self, cost: int) -> None:
        reply = await self.caller.call("eth_getBalance", self.signer.address, "latest")
        balance = amount(reply, "balance")
        if balance < cost:
            raise AdminError(
                f"the account {self.signer.address} has {ether(balance)}, but the transaction may cost up to "
                f"{ether(cost)}; nothing was sent"
            )

    # -- from here on there may be a transaction ----------------------------------------------------------

    async def _submit(self, signed: SignedTransaction) -> None:
        try:
            await self.caller.call("eth_sendRawTransaction", "0x" + signed.raw.hex())
        except ChainError as error:
            # A retry may have met its own first attempt ("already known", "nonce too low").
            if not await self._is_known(signed.hash, error):
                raise AdminError(f"the endpoint did not take the transaction: {error}") from error

    async def _is_known(self, hash_: str, refusal: ChainError) -> bool:
        try:
            return await self.caller.call("eth_getTransactionByHash", hash_) is not None
        except ChainError:
            raise AdminError(
                f"it is not known whether the endpoint took transaction {hash_} ({refusal}): look for it "
                "before you try again"
            ) from refusal

    async def _wait(self, hash_: str) -> dict[str, Json]:
        """The receipt. Absorbs the endpoint's errors until the time is over, or the connection is lost."""
        ends, pause = time.monotonic() + self.timeout, _FIRST_PAUSE
        last: ChainError | None = None
        while True:
            try:
                receipt = await self.caller.call("eth_getTransactionReceipt", hash_)
            except ChainError as error:
                last = error
                if self.caller.transport.failure is not None:
                    raise AdminError(_lost(hash_, f"the connection was lost: {error}")) from error
            else:
                if isinstance(receipt, dict):
                    return receipt
            if time.monotonic() + pause > ends:
                raise AdminError(_lost(hash_, f"it was not mined within {self.timeout:g} s")) from last
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    async def _reverted(
        self, hash_: str, receipt: dict[str, Json], transaction: dict[str, str]
    ) -> AdminError:
        """Something came between the simulation and the block: ask once more for the contract's reason."""
        reason = "reverted"
        try:
            await self.caller.call("eth_call", transaction, receipt.get("blockNumber"))
        except CallRevertedError as error:
            reason = f"the contract refused: {describe_revert(error.data)}"
        except ChainError as error:
            reason = f"it reverted, and the endpoint does not say why ({error})"
        return AdminError(f"transaction {hash_} was mined but changed nothing: {reason}")


def _refusal(error: CallRevertedError) -> AdminError:
    return AdminError(f"the contract refused: {describe_revert(error.data)}; nothing was sent")


def _lost(hash_: str, why: str) -> str:
    return (
        f"transaction {hash_} was sent, but {why}. It may still be mined: look for it with 'dstack-vpn node "
        "info', or by its hash, before you send another"
    )


def _parse_receipt(hash_: str, receipt: dict[str, Json]) -> Receipt:
    try:
        gas = quantity(receipt.get("gasUsed"), "receipt's gas")
        price = receipt.get("effectiveGasPrice")
        return Receipt(
            hash_,
            quantity(receipt.get("blockNumber"), "receipt's block number"),
            gas,
            gas * (0 if price is None else amount(price, "gas price")),
            _contract(receipt.get("contractAddress")),
            tuple(_logs(receipt.get("logs"))),
        )
    except EndpointError as error:
        raise AdminError(f"transaction {hash_} was mined, but its receipt can't be read: {error}") from error


def _contract(value: Json) -> Address | None:
    return None if value is None else f"0x{amount(value, 'contract address'):040x}"


def _logs(value: Json) -> list[tuple[Address, Log]]:
    return [
        (f"0x{amount(mapping(log, 'log').get('address'), 'address'):040x}", parse_log(log))
        for log in sequence(value, "receipt's logs")
    ]
