"""The administration of the registry contract, for the commands of `contract`."""

from typing import TYPE_CHECKING

from dstack_vpn.adapters.admin.overview import Overview, read_accounts, read_overview, version_of
from dstack_vpn.adapters.admin.registry import Action, require
from dstack_vpn.adapters.admin.signer import check_address
from dstack_vpn.adapters.contracts import calls, signatures
from dstack_vpn.config import Settings
from dstack_vpn.core.model import ZERO_ADDRESS, Address
from dstack_vpn.errors import AdminError
from dstack_vpn.wiring.node import registry_access

if TYPE_CHECKING:
    from dstack_vpn.adapters.admin.reading import RegistryReader
    from dstack_vpn.adapters.admin.registry import Administrator
    from dstack_vpn.adapters.admin.transactions import Receipt

__all__ = ["Overview"]


async def overview(settings: Settings) -> Overview:
    """Read the contract. Raises `AdminError` and `ChainError`, as all functions of this module."""
    return await registry_access(settings).reading(read_overview)


async def minters(settings: Settings) -> tuple[tuple[Address, ...], int]:
    """Return the minters, and the block of the reading."""
    return await _accounts(settings, signatures.MINTERS, Action.LIST_MINTERS)


async def policy_administrators(settings: Settings) -> tuple[tuple[Address, ...], int]:
    """Return the policy administrators, and the block of the reading."""
    return await _accounts(settings, signatures.POLICY_ADMINISTRATORS, Action.LIST_POLICY_ADMINISTRATORS)


async def _accounts(settings: Settings, question: bytes, action: Action) -> tuple[tuple[Address, ...], int]:
    async def read(reader: "RegistryReader") -> tuple[tuple[Address, ...], int]:
        require(reader.abi, action)
        return await read_accounts(reader, question)

    return await registry_access(settings).reading(read)


async def needs_acceptance(settings: Settings) -> bool:
    """Return True if a new owner of the contract has to accept it."""

    async def read(reader: "RegistryReader") -> bool:
        return version_of(reader) is not None

    return await registry_access(settings).reading(read)


async def add_minter(admin: "Administrator", account: Address) -> "Receipt":
    """Let an account register, invite and revoke nodes. Only the owner can."""
    return await admin.administer(calls.add_minter(check_address(account)), Action.ADD_MINTER)


async def remove_minter(admin: "Administrator", account: Address) -> "Receipt":
    """Take that right away. Only the owner can."""
    return await admin.administer(calls.remove_minter(check_address(account)), Action.REMOVE_MINTER)


async def add_policy_administrator(admin: "Administrator", account: Address) -> "Receipt":
    """Let an account set the policy. Only the owner can."""
    data = calls.add_policy_administrator(check_address(account))
    return await admin.administer(data, Action.ADD_POLICY_ADMINISTRATOR)


async def remove_policy_administrator(admin: "Administrator", account: Address) -> "Receipt":
    """Take that right away. Only the owner can."""
    data = calls.remove_policy_administrator(check_address(account))
    return await admin.administer(data, Action.REMOVE_POLICY_ADMINISTRATOR)


async def pause(admin: "Administrator") -> "Receipt":
    """Stop registrations and invitations. Only the owner can."""
    return await admin.administer(calls.pause(), Action.PAUSE)


async def unpause(admin: "Administrator") -> "Receipt":
    """Allow registrations again. Only the owner can."""
    return await admin.administer(calls.unpause(), Action.UNPAUSE)


async def transfer_ownership(admin: "Administrator", to: Address | None) -> "Receipt":
    """Offer the contract to an account; None withdraws the offer. Only the owner can."""
    if to is None:
        data = calls.transfer_contract_ownership(ZERO_ADDRESS)
        return await admin.administer(data, Action.WITHDRAW_OWNERSHIP)
    account = check_address(to)
    if account == ZERO_ADDRESS:
        raise AdminError("the zero address can't own the contract: --withdraw withdraws an offer")
    return await admin.administer(calls.transfer_contract_ownership(account), None)


async def accept_ownership(admin: "Administrator") -> "Receipt":
    """Accept the contract. Only the pending owner can."""
    return await admin.administer(calls.accept_ownership(), Action.ACCEPT_OWNERSHIP)
