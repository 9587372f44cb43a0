"""The registration of many nodes in few transactions, for commands.

First the missing nodes are minted. Their tags, routes and expiries follow in other transactions,
because a token's number is known only after its mint: another minter may have registered a node in
between, which must not get these rights.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dstack_vpn.adapters.admin.registry import Action, uri_of
from dstack_vpn.adapters.admin.signer import check_address
from dstack_vpn.adapters.contracts import AccessRegistry, calls
from dstack_vpn.config.parsers import address
from dstack_vpn.core.chain.enrolment import Enrolment, Rights, mint_gas, pack, plan, rights_of
from dstack_vpn.core.chain.enrolment_file import parse, raise_for
from dstack_vpn.core.chain.events import Granted
from dstack_vpn.core.chain.unsent import Mode, Unsent, WithheldError
from dstack_vpn.core.model import Address, TokenId
from dstack_vpn.errors import AdminError, ChainError, FormatError, UnknownOutcomeError
from dstack_vpn.wiring.addresses import destinations
from dstack_vpn.wiring.rights import tags

if TYPE_CHECKING:
    from dstack_vpn.adapters.admin.registry import Administrator
    from dstack_vpn.adapters.admin.transactions import Receipt
    from dstack_vpn.config import Settings

_LARGEST: Final = 8 << 20
"""The limit of a file, in bytes."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The result of a registration of many nodes."""

    registered: list[tuple[TokenId, str]] = field(default_factory=list)
    completed: list[TokenId] = field(default_factory=list)
    """Nodes of an earlier run, which got rights that they lacked."""
    unchanged: list[tuple[TokenId, str]] = field(default_factory=list)
    receipts: "list[Receipt]" = field(default_factory=list)


def read_file(settings: "Settings", path: Path) -> tuple[Enrolment, ...]:
    """Return the nodes of a CSV file; raises `AdminError` and `FormatError`."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        text = content.decode()
    except OSError as error:
        raise AdminError(f"can't read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise AdminError(f"{path} is not UTF-8 text") from error
    if len(content) > _LARGEST:
        raise AdminError(f"{path} is larger than {_LARGEST} bytes: divide it")
    found = parse(text, _account)
    permitted = destinations(settings)
    refusals = ((each, each.endpoint.refusal(permitted)) for each in found if each.endpoint is not None)
    raise_for([f"{each.node_id}: {problem}" for each, problem in refusals if problem is not None])
    return found


def _account(text: str) -> Address:
    try:
        return check_address(text if address(text) else "")
    except FormatError as error:
        raise FormatError(f"holder: {error}") from error


async def enrol(admin: "Administrator", wanted: Sequence[Enrolment]) -> Enrolled:
    """Register nodes, except those that are registered with equal data.

    Raises `FormatError` if one contradicts the registry; nothing is sent then. Any error after the
    first transaction states the number of nodes that are registered.
    """
    defined, _ = await tags(admin.access, Action.BATCH)
    snapshot = await admin.access.list()
    found = plan(wanted, snapshot.registry, defined, snapshot.at.timestamp)
    raise_for(found.problems)
    run = _Run(admin, Enrolled(unchanged=list(found.unchanged)))
    try:
        await run.mint(found.mints)
        by_id = {node_id: token for token, node_id in run.done.registered}
        granted = [(by_id[e.node_id], rights_of(e, defined)) for e in found.mints if e.node_id in by_id]
        await run.grant([*found.completions, *granted])
    except (AdminError, ChainError) as error:
        if not run.done.receipts and not isinstance(error, UnknownOutcomeError):
            raise
        raise _interrupted(error, run.done, len(found.mints)) from error
    if run.withheld:
        if any(rights_of(each, defined).gas for each in found.mints):
            admin.progress("tags, routes and expiries of the new nodes need further transactions")
        raise WithheldError(run.withheld)
    run.done.completed.extend(token for token, _ in found.completions)
    return run.done


def _uri(each: Enrolment) -> str:
    return "" if each.endpoint is None else uri_of(each.endpoint)


def _interrupted(error: AdminError | ChainError, done: Enrolled, count: int) -> AdminError:
    message = (
        f"{error}\n{len(done.registered)} of {count} new nodes are registered. Run the same command again: "
        "it continues with the others"
    )
    return UnknownOutcomeError(message) if isinstance(error, UnknownOutcomeError) else AdminError(message)


@dataclass(frozen=True, slots=True)
class _Run:
    """The transactions of one run."""

    admin: "Administrator"
    done: Enrolled
    withheld: list[Unsent] = field(default_factory=list)

    async def mint(self, nodes: Sequence[Enrolment]) -> None:
        items = []
        for each in nodes:
            uri = _uri(each)
            data = calls.mint(each.holder, each.node_id, each.key, uri)
            items.append((mint_gas(each.node_id, uri), data))
        batches = pack(items)
        # All batches are checked before the first is sent. In another mode, each is checked anyway.
        for batch in batches[1:] if self.admin.mode is Mode.SEND else ():
            await self._simulate(batch)
        for number, batch in enumerate(batches, 1):
            self.admin.progress(f"registering {len(batch)} nodes, transaction {number} of {len(batches)}")
            receipt = await self._send(batch)
            if receipt is not None:
                self.done.registered.extend(_minted(self.admin, receipt, len(batch)))

    async def _simulate(self, parts: Sequence[bytes]) -> None:
        """Raise `AdminError` if the contract would refuse a batch; nothing is sent."""
        with suppress(WithheldError):
            await replace(self.admin, mode=Mode.CALLDATA).administer(calls.multicall(parts), Action.BATCH)

    async def grant(self, rights: Sequence[tuple[TokenId, Rights]]) -> None:
        items = [(each.gas, _calls_of(token, each)) for token, each in rights if each.gas]
        batches = pack(items)
        for number, batch in enumerate(batches, 1):
            self.admin.progress(
                f"setting rights of {len(batch)} nodes, transaction {number} of {len(batches)}"
            )
            await self._send([data for parts in batch for data in parts])

    async def _send(self, parts: Sequence[bytes]) -> "Receipt | None":
        """Send a batch; return None if it was withheld."""
        try:
            receipt = await self.admin.administer(calls.multicall(parts), Action.BATCH)
        except WithheldError as error:
            self.withheld.extend(error.transactions)
            return None
        self.done.receipts.append(receipt)
        return receipt


def _calls_of(token: TokenId, rights: Rights) -> list[bytes]:
    return [
        *([] if rights.tags is None else [calls.set_tags(token, rights.tags)]),
        *([] if rights.routes is None else [calls.set_routes(token, rights.routes)]),
        *([] if rights.expires_at is None else [calls.set_expiry(token, rights.expires_at)]),
    ]


def _minted(admin: "Administrator", receipt: "Receipt", count: int) -> list[tuple[TokenId, str]]:
    """Return the tokens and node ids in a receipt's logs; raises `UnknownOutcomeError`."""
    abi, contract = AccessRegistry(), admin.access.contract
    events = [abi.decode(log) for address, log in receipt.logs if address == contract]
    found = [(e.token_id, str(e.node_id)) for e in events if isinstance(e, Granted)]
    if len(found) != count:
        raise UnknownOutcomeError(
            f"transaction {receipt.hash} was mined, but its logs name {len(found)} of {count} new nodes"
        )
    return found
