"""The registration of a registry's members in another registry, for a command."""

from dataclasses import replace
from typing import TYPE_CHECKING

from dstack_vpn.adapters.admin.overview import version_of
from dstack_vpn.adapters.admin.signer import check_address
from dstack_vpn.config import Settings
from dstack_vpn.core.chain.migration import Members, members
from dstack_vpn.core.model import Address
from dstack_vpn.errors import AdminError
from dstack_vpn.wiring.node import registry_access
from dstack_vpn.wiring.rights import read_tags

if TYPE_CHECKING:
    from dstack_vpn.adapters.admin.reading import RegistryReader


def settings_of(settings: Settings, contract: Address) -> Settings:
    """Return the settings for a contract, whose version is detected; raises `FormatError`."""
    return replace(settings, contract_address=check_address(contract), contract_abi="auto")


async def members_of(settings: Settings) -> Members:
    """Read the members of a registry of any supported version. Raises `ChainError`."""

    async def read(reader: "RegistryReader") -> Members:
        snapshot = await reader.everything()
        tags = (await read_tags(reader))[0] if version_of(reader) == 2 else []
        return members(snapshot.registry, tags, snapshot.at.timestamp)

    return await registry_access(settings).reading(read)


def check_refused(found: Members) -> None:
    """Raise `AdminError` if members can't be registered."""
    if found.refused:
        listed = "\n".join(
            f"  - {each.node_id or 'a node'} (token {each.token}): {each.reason}" for each in found.refused
        )
        raise AdminError(
            f"these members can't be registered in the new registry; nothing was sent:\n{listed}\n"
            "Change them in the old registry, or leave them out with --leave-out"
        )
