"""The registry's policy, for the commands of `policy`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dstack_vpn.adapters.admin.registry import Action
from dstack_vpn.adapters.contracts import calls
from dstack_vpn.config import Settings
from dstack_vpn.core.chain.contract import ContractState, Hash, Policy
from dstack_vpn.core.model import Address, BlockRef
from dstack_vpn.errors import AdminError
from dstack_vpn.wiring.node import registry_access

if TYPE_CHECKING:
    from dstack_vpn.adapters.admin.reading import RegistryReader, RegistrySnapshot
    from dstack_vpn.adapters.admin.registry import Administrator
    from dstack_vpn.adapters.admin.transactions import Receipt


@dataclass(frozen=True, slots=True)
class RegistryPolicy:
    """A registry's policy after one block."""

    policy: Policy | None
    """With its text."""
    at: BlockRef
    contract: str
    """The name of the contract's interface."""
    supported: bool
    """False if a contract of this kind never has a policy."""

    @property
    def hash(self) -> Hash | None:
        """The hash of the policy; None without one."""
        return None if self.policy is None else self.policy.hash

    def require_support(self) -> None:
        """Raise `AdminError` if the contract can't have a policy."""
        if not self.supported:
            raise AdminError(
                f"the contract is a {self.contract}, which has no policy: set POLICY_FILE, to the same "
                "policy on all nodes"
            )


async def read_policy(settings: Settings) -> RegistryPolicy:
    """Read the policy. Raises `AdminError` and `ChainError`, as all functions of this module."""

    async def read(reader: "RegistryReader") -> RegistryPolicy:
        return await _policy(reader, await reader.session.head())

    return await registry_access(settings).reading(read)


async def read_all(settings: Settings) -> "tuple[RegistrySnapshot, RegistryPolicy]":
    """Read all nodes and the policy at one block."""

    async def read(reader: "RegistryReader") -> "tuple[RegistrySnapshot, RegistryPolicy]":
        snapshot = await reader.everything()
        return snapshot, await _policy(reader, snapshot.at)

    return await registry_access(settings).reading(read)


async def _policy(reader: "RegistryReader", at: BlockRef) -> RegistryPolicy:
    found = (await reader.session.read_policy(at)).policy
    return RegistryPolicy(found, at, reader.abi.name, bool(reader.abi.policy_calls()))


def require_administrator(contract: ContractState, account: Address) -> None:
    """Raise `AdminError` if an account may not set the policy."""
    if account not in {contract.owner, *contract.policy_administrators}:
        raise AdminError(
            f"the account {account} is not a policy administrator, and nothing was sent: the registry's "
            f"owner can add it with 'dstack-vpn contract policy-administrator add {account}'"
        )


async def set_policy(admin: "Administrator", text: str, before: Hash | None) -> "Receipt":
    """Set the policy, or remove it with an empty text. Only policy administrators can.

    Raises `AdminError` if the policy is not ``before`` any more; nothing is sent then.
    """

    async def read(reader: "RegistryReader") -> Hash | None:
        return (await _policy(reader, await reader.session.head())).hash

    if await admin.access.reading(read) != before:
        raise AdminError(
            "the registry's policy has changed since the pairs were compared, and nothing was sent: run the "
            "command again"
        )
    return await admin.administer(calls.set_policy(text), Action.SET_POLICY)
