"""The functions of the adapters for the commands of invitations."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from dstack_vpn.adapters.admin import invitations
from dstack_vpn.adapters.admin.registry import Action, require
from dstack_vpn.adapters.admin.signer import Signer, check_address
from dstack_vpn.config import NETWORKS, Settings
from dstack_vpn.core.chain.invitation import Invitation, RegistryAddress
from dstack_vpn.core.chain.invitation_code import InvitationCode
from dstack_vpn.core.chain.invitation_facts import InvitationFacts, Use, registry_refusal, tag_mask
from dstack_vpn.core.model import ZERO_ADDRESS, Address, Cidr
from dstack_vpn.errors import AdminError, ConfigError
from dstack_vpn.wiring import node as wiring

if TYPE_CHECKING:
    from dstack_vpn.adapters.admin.reading import RegistryReader
    from dstack_vpn.adapters.admin.registry import Administrator
    from dstack_vpn.adapters.admin.transactions import Receipt

_T = TypeVar("_T")

hash_of = invitations.hash_of
is_signed_by_account = invitations.is_signed_by_account


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of an invitation, as a minter states them."""

    node_id: str
    tags: tuple[str, ...]
    routes: tuple[Cidr, ...]
    expires_at: int
    deadline: int
    holder: Address | None


async def create(settings: Settings, terms: Terms) -> InvitationCode:
    """Sign an invitation, after a check of the registry. It sends no transaction.

    Raises `AdminError`, `ChainError`, `ConfigError` and `FormatError`.
    """
    if settings.contract_private_key is None:
        raise ConfigError(["CONTRACT_PRIVATE_KEY (or CONTRACT_PRIVATE_KEY_FILE): is not set"])
    signer = Signer(settings.contract_private_key.reveal())
    holder = ZERO_ADDRESS if terms.holder is None else check_address(terms.holder)
    key = invitations.new_claim_key() if terms.holder is None else None
    rights = await _reading(
        settings, lambda reader: invitations.read_rights(reader, signer.address, terms.node_id)
    )
    if not rights.may_invite:
        raise AdminError(
            f"the account {signer.address} is not a minter of the registry, so its invitation would be "
            "useless: use a minter's CONTRACT_PRIVATE_KEY"
        )
    try:
        mask = tag_mask(terms.tags, rights.tags)
    except LookupError as error:
        defined = ", ".join(name for name in rights.tags if name is not None) or "none"
        raise AdminError(
            f"--tags: the registry does not define {str(error.args[0])!r} (defined: {defined})"
        ) from error
    invitation = Invitation(
        node_id=terms.node_id,
        tags=mask,
        routes=terms.routes,
        expires_at=terms.expires_at,
        deadline=terms.deadline,
        minter=signer.address,
        holder=holder,
        claimant=ZERO_ADDRESS if key is None else key.address,
        salt=invitations.new_salt(),
    )
    if (problem := registry_refusal(invitation, rights)) is not None:
        raise AdminError(problem)
    registry = RegistryAddress(settings.chain_id, settings.contract_address)
    return invitations.sign(signer, registry, invitation, key)


async def look_up(settings: Settings, code: InvitationCode) -> InvitationFacts:
    """Return the state of an invitation in its registry. Raises `AdminError` and `ChainError`."""
    return await _reading(settings, lambda reader: invitations.read_facts(reader, code))


async def cancel(settings: Settings, admin: "Administrator", invitation_hash: bytes) -> "Receipt":
    """Cancel an invitation, unless that is useless or not permitted: then nothing is sent."""
    account = admin.signer.address

    async def read(reader: "RegistryReader") -> tuple[Use, bool]:
        # Any node id: only the account's role is of interest.
        rights = await invitations.read_rights(reader, account, "any")
        return await invitations.read_use(reader, invitation_hash), rights.may_invite

    use, may_cancel = await _reading(settings, read)
    if use is not Use.OPEN:
        raise AdminError(f"the invitation was already {use.value}; nothing was sent")
    if not may_cancel:
        raise AdminError(f"the account {account} is not a minter of the registry; nothing was sent")
    return await admin.cancel_invitation(invitation_hash)


async def _reading(settings: Settings, work: Callable[["RegistryReader"], Awaitable[_T]]) -> _T:
    async def read(reader: "RegistryReader") -> _T:
        require(reader.abi, Action.INVITE)
        return await work(reader)

    return await wiring.registry_access(settings).reading(read)


def settings_for(settings: Settings, registry: RegistryAddress) -> Settings:
    """Return the settings for a code's registry, which replaces settings that are not given.

    Raises `AdminError` if the given settings are for another chain or contract.
    """
    given = settings.texts
    if given.get("CONTRACT_ADDRESS", ZERO_ADDRESS) != ZERO_ADDRESS and (
        settings.contract_address != registry.contract
    ):
        raise AdminError(
            f"the invitation is for the contract {registry.contract}, but CONTRACT_ADDRESS is "
            f"{settings.contract_address}: remove that setting, or ask for an invitation to that contract"
        )
    if settings.chain_id != registry.chain_id and ("CHAIN_ID" in given or "NETWORK" in given):
        raise AdminError(
            f"the invitation is for chain {registry.chain_id}, but the settings (NETWORK, CHAIN_ID) are for "
            f"chain {settings.chain_id}: remove them, or ask for an invitation to that chain"
        )
    preset = next((each for each in NETWORKS.values() if each.chain_id == registry.chain_id), None)
    network = settings.network if "NETWORK" in given or preset is None else preset
    if "RPC_URL" not in given and network.chain_id != registry.chain_id:
        raise AdminError(
            f"the invitation is for chain {registry.chain_id}, which has no default endpoint: set RPC_URL"
        )
    return replace(
        settings,
        network=network,
        rpc_url=settings.rpc_url if "RPC_URL" in given else network.rpc_urls,
        chain_id=registry.chain_id,
        contract_address=registry.contract,
    )
