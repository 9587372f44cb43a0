"""The registry's policy, for the commands of `policy`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dstack_vpn.config import Settings
from dstack_vpn.core.chain.contract import Policy
from dstack_vpn.core.model import BlockRef
from dstack_vpn.errors import AdminError
from dstack_vpn.wiring.node import registry_access

if TYPE_CHECKING:
    from dstack_vpn.adapters.admin.reading import RegistryReader, RegistrySnapshot


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
