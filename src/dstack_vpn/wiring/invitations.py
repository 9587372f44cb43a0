"""The functions of the adapters for the commands of invitations."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_bytes
from typing import TYPE_CHECKING, TypeVar

from dstack_vpn.adapters.admin import invitations
from dstack_vpn.adapters.admin.registry import Action, require
from dstack_vpn.adapters.admin.signer import Keyless, Signer, check_address
from dstack_vpn.adapters.store.private import create_private
from dstack_vpn.config import NETWORKS, Settings
from dstack_vpn.config.joined import document, environment, unwritable
from dstack_vpn.core.chain.invitation import Invitation, RegistryAddress
from dstack_vpn.core.chain.invitation_code import InvitationCode
from dstack_vpn.core.chain.invitation_facts import InvitationFacts, Use, refusal, registry_refusal, tag_mask
from dstack_vpn.core.chain.unsent import Mode
from dstack_vpn.core.model import ZERO_ADDRESS, Address, Cidr, TokenId
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import KEY_LENGTH, PrivateKey, PublicKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import AdminError, ConfigError, UnknownOutcomeError
from dstack_vpn.wiring import node as wiring
from dstack_vpn.wiring.addresses import address_plan, destinations
from dstack_vpn.wiring.keys import with_key
from dstack_vpn.wiring.secrets import refuse_exposed

if TYPE_CHECKING:
    from dstack_vpn.adapters.admin.reading import RegistryReader
    from dstack_vpn.adapters.admin.registry import Administrator, Registered
    from dstack_vpn.adapters.admin.transactions import Receipt

_T = TypeVar("_T")

environment_of_daemon = environment
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
    signer = admin.signer
    account = signer.known if isinstance(signer, Keyless) else signer.address

    async def read(reader: "RegistryReader") -> tuple[Use, bool]:
        if account is None:
            return await invitations.read_use(reader, invitation_hash), True
        # Any node id: only the account's role is of interest.
        rights = await invitations.read_rights(reader, account, "any")
        return await invitations.read_use(reader, invitation_hash), rights.may_invite

    use, may_cancel = await _reading(settings, read)
    if use is not Use.OPEN:
        raise AdminError(f"the invitation was already {use.value}; nothing was sent")
    if not may_cancel:
        raise AdminError(f"the account {account} is not a minter of the registry; nothing was sent")
    return await admin.cancel_invitation(invitation_hash)


@dataclass(frozen=True, slots=True)
class Joined:
    """The node of this machine."""

    token: TokenId
    receipt: "Receipt | None"
    """None if an earlier run of the command had redeemed the invitation."""


def check_join(
    settings: Settings, code: InvitationCode, endpoint: PeerEndpoint | None, settings_file: Path
) -> None:
    """Check this machine, before anything is changed. Raises `AdminError` and `ConfigError`."""
    node_id = code.invitation.node_id
    if settings.node_id not in {None, node_id}:
        raise AdminError(
            f"the invitation is for the node {node_id}, but NODE_ID is {settings.node_id}: remove NODE_ID"
        )
    if settings.key_file is None:
        raise AdminError(
            "this command generates the node's key in STATE_DIR: remove WIREGUARD_PRIVATE_KEY, or set it to "
            "'generate'"
        )
    if endpoint is not None and (problem := endpoint.refusal(destinations(settings))) is not None:
        raise AdminError(f"--endpoint: {problem}")
    if (problem := unwritable(settings_file)) is not None:
        raise AdminError(f"--settings-file: {problem}")
    refuse_exposed({"STATE_DIR": settings.state_dir})


async def join(
    settings: Settings, admin: "Administrator", code: InvitationCode, endpoint: PeerEndpoint | None
) -> Joined:
    """Redeem an invitation for this machine's key, which is generated if it is missing.

    An invitation that can't be redeemed is an `AdminError`; nothing is changed then, and no gas is
    spent. An earlier run of the command, whose outcome was not known, is recognized by the key.
    """
    admin.progress("checking the invitation")
    facts, terms, own = await look_up(settings, code), code.invitation, settings.wireguard_private_key
    if own is not None:
        token = await _token_with_key(settings, admin.signer.address, terms.node_id, derive(own))
        if token is not None and facts.use in {Use.REDEEMED, Use.USED}:
            return Joined(token, None)
    if (problem := refusal(terms, facts, admin.signer.address)) is not None:
        raise AdminError(f"{problem}; nothing was sent")
    if own is None and admin.mode is Mode.DRY_RUN:
        key: PrivateKey | None = PrivateKey(token_bytes(KEY_LENGTH))  # no file is created
    else:
        key = (await with_key(settings)).wireguard_private_key
    assert key is not None
    try:
        done = await admin.redeem(code, derive(key), endpoint)
    except UnknownOutcomeError as error:
        raise UnknownOutcomeError(
            f"{error}\nRun the same command again later: it recognizes a node that was registered"
        ) from error
    return Joined(done.token, done.receipt)


async def redeem(
    settings: Settings, admin: "Administrator", code: InvitationCode, key: PublicKey, endpoint: PeerEndpoint
) -> "Registered":
    """Redeem an invitation for another machine's key.

    An invitation that can't be redeemed is an `AdminError`; nothing is sent then.
    """
    admin.progress("checking the invitation")
    facts = await look_up(settings, code)
    if (problem := refusal(code.invitation, facts, admin.signer.address)) is not None:
        raise AdminError(f"{problem}; nothing was sent")
    return await admin.redeem(code, key, endpoint)


async def _token_with_key(
    settings: Settings, account: Address, node_id: str, key: PublicKey
) -> TokenId | None:
    """Return this machine's node; raises `AdminError` if its key belongs to another node."""
    registry = (await wiring.registry_access(settings).everything()).registry
    nodes = [node for node in map(registry.get, registry.with_key(key)) if node is not None and node.active]
    for node in nodes:
        if (node.node_id, node.owner) == (node_id, account):
            return node.token_id
    if nodes:
        raise AdminError(
            f"the key in {settings.key_file} belongs to token {nodes[0].token_id} already: choose another "
            "STATE_DIR for the new node; nothing was sent"
        )
    return None


def write_settings(settings: Settings, node_id: str, path: Path) -> None:
    """Create the settings file of this machine's node, with mode 0600. Raises `AdminError`."""
    advice = "run the same command again with another --settings-file"
    try:
        created = create_private(path, document(settings, node_id))
    except OSError as error:
        raise AdminError(
            f"the node is registered, but {path} can't be written: {error.strerror}: {advice}"
        ) from error
    if not created:
        raise AdminError(f"the node is registered, but {path} was created meanwhile: {advice}")


def addresses(settings: Settings, token: TokenId) -> list[str]:
    """Return a node's tunnel addresses."""
    return sorted(cidr.partition("/")[0] for cidr in address_plan(settings).allowed_ips(token))


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
