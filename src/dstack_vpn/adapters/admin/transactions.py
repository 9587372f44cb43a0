"""Getting one transaction mined, or saying precisely what became of it.

The order is what makes it safe to try: simulate (a revert is shown by the contract's named error), estimate,
price, check the balance, sign, send, wait. Up to and including signing nothing has happened, and a
`ChainError` says so: another endpoint may be tried. From sending on there are three outcomes, and another
transaction is sent in none of them:

    mined       a `Receipt`, or an `AdminError` if it was mined and reverted
    refused     an `AdminError`: the endpoint checked the transaction and did not take it
    unknown     an `UnknownOutcomeError` with the hash: it may be mined all the same
"""

import asyncio
import re
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
from dstack_vpn.errors import AdminError, CallRevertedError, ChainError, EndpointError, UnknownOutcomeError
from dstack_vpn.ports import Log

Tell = Callable[[str], None]
"""Told what is being done, in a few words."""

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
_LOGS_LATE: Final = 4.0
"""Seconds that a receipt's logs or status may come later than its block."""
_TAKEN: Final = re.compile(
    "already.?(known|imported|exists|in (the )?(mem|tx)?pool)|(?<!un)known transaction|same hash was already",
    re.IGNORECASE,
)
"""The endpoint has this very transaction."""
_MAYBE_OURS: Final = re.compile("nonce", re.IGNORECASE)
"""A nonce that is used up may be used by this very transaction, which was mined meanwhile."""
_REFUSED: Final = re.compile(
    "underpriced|insufficient funds|intrinsic gas|gas limit|fee.{0,40}(too low|less than|cap)|chain.?id|"
    "invalid (sender|signature|chain|transaction)|not supported|replacement|method not found|does not exist|"
    "unauthori[sz]ed|HTTP status 40[1345]",
    re.IGNORECASE,
)
"""The endpoint checked the transaction and did not take it."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A transaction that was mined and did not revert."""

    hash: str
    block: int
    gas_used: int
    fee: int
    """Wei, without what a rollup adds for its data."""
    contract: Address | None
    """The deployed contract's address."""
    logs: tuple[tuple[Address, Log], ...] = ()

    @property
    def fee_text(self) -> str:
        """The fee for people."""
        return ether(self.fee)


@dataclass(frozen=True, slots=True)
class TransactionSender:
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
        if _succeeded(receipt) is False:
            raise await self._reverted(signed.hash, receipt, transaction)
        return _parse_receipt(signed.hash, receipt)

    def _refusal(self, error: CallRevertedError) -> AdminError:
        return AdminError(f"the contract refused: {self._reason(error)}; nothing was sent")

    def _reason(self, error: CallRevertedError) -> str:
        """The contract's reason, which is text that the endpoint sent."""
        return describe_revert(error.data, self.caller.transport.url.redactor.beginning)

    async def _simulate(self, transaction: dict[str, str]) -> None:
        try:
            await self.caller.call("eth_call", transaction, "latest")
        except CallRevertedError as error:
            raise self._refusal(error) from error

    async def _complete(self, to: Address | None, data: bytes, call: dict[str, str]) -> dict[str, Any]:
        """The transaction's fields, gas and fees included."""
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
        return {**fields, **target, "data": data, **fees.fields}

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
        """Send it once. After an error it may have been accepted, unless the endpoint excludes that.

        A retry may have met its own first attempt ("already known", "nonce too low").
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
            self.tell(f"the endpoint answered {error}: looking for the transaction")

    async def _is_known(self, hash_: str) -> bool:
        """Return True if the endpoint shows it; False if it does not, or not yet."""
        try:
            return await self.caller.call("eth_getTransactionByHash", hash_) is not None
        except ChainError:
            return False

    async def _wait(self, hash_: str) -> dict[str, Json]:
        """The receipt, once it is complete. Absorbs the endpoint's errors until the time is over.

        An answer of null means "not known yet", and a receipt without a block is not a receipt yet. Logs may
        come later than the receipt: one that has none is asked for again for a moment.
        """
        ends, pause = time.monotonic() + self.timeout, _FIRST_PAUSE
        bare_until: float | None = None
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
                bare_until = min(now + _LOGS_LATE, ends) if bare_until is None else bare_until
                if _is_complete(receipt) or now >= bare_until:
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
        """Something came between the simulation and the block: ask once more for the contract's reason."""
        reason = "reverted"
        try:
            await self.caller.call("eth_call", transaction, receipt.get("blockNumber"))
        except CallRevertedError as error:
            reason = f"the contract refused: {self._reason(error)}"
        except ChainError as error:
            reason = f"it reverted, and the endpoint does not say why ({error})"
        return AdminError(f"transaction {hash_} was mined but changed nothing: {reason}")


def _lost(hash_: str, why: str) -> str:
    return (
        f"transaction {hash_} was sent, but {why}. It may have been mined, or may still be: look for it with "
        "'dstack-vpn node info', or by its hash, before you send another"
    )


def _succeeded(receipt: dict[str, Json]) -> bool | None:
    """Return True if it changed something; None if the receipt does not show it.

    A receipt without a status (as before EIP-658) says it by its logs: what reverted has none.
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
    """Return True if it has all parts of our receipts: a status, and logs unless a contract was created."""
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
            f"transaction {hash_} was mined, but its receipt can't be read: {error}. Look for it with "
            "'dstack-vpn node info', or by its hash, before you send another"
        ) from error


def _contract(value: Json) -> Address | None:
    return None if value is None else f"0x{amount(value, 'contract address'):040x}"


def _logs(value: Json) -> list[tuple[Address, Log]]:
    return [
        (f"0x{amount(mapping(log, 'log').get('address'), 'address'):040x}", parse_log(log))
        for log in sequence(value, "receipt's logs")
    ]
