"""Administrative operations on a registry contract, for each of the supported contracts."""

import base64
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

from dstack_vpn.adapters.admin import invitations as inviting
from dstack_vpn.adapters.admin.endpoints import on_first
from dstack_vpn.adapters.admin.reading import NodeName, RegistryReader, RegistrySnapshot
from dstack_vpn.adapters.admin.signer import Keyless, Signer, check_address
from dstack_vpn.adapters.admin.transactions import Progress, Receipt, TransactionSender
from dstack_vpn.adapters.chain.caller import Caller
from dstack_vpn.adapters.chain.fields import chain_id
from dstack_vpn.adapters.chain.identity import Target
from dstack_vpn.adapters.chain.session import SessionSettings
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.adapters.contracts import AccessRegistry, AccessRegistryV1, calls, invitations
from dstack_vpn.core.chain.events import Granted
from dstack_vpn.core.chain.invitation_code import InvitationCode
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.unsent import Mode
from dstack_vpn.core.model import Address, TokenId
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import AdminError, UnknownOutcomeError, WrongChainError
from dstack_vpn.ports import RegistryAbi

_T = TypeVar("_T")


class Action(Enum):
    """Operations that only our own contract supports."""

    UPDATE_KEY = "update keys"
    SET_ENDPOINT = "set endpoints"
    SET_EXPIRY = "set expiries"
    INVITE = "use invitations"
    DEFINE_TAG = "define tags: it has no function defineTag"
    LIST_TAGS = "list tags: it has no function tags"
    BATCH = "register several nodes at once: it has no function multicall"
    SET_TAGS = "set tags: it has no function setTags"
    SET_ROUTES = "set routes: it has no function setRoutes"
    ADD_MINTER = "add minters: it has no function addMinter"
    REMOVE_MINTER = "remove minters: it has no function removeMinter"
    LIST_MINTERS = "list minters: it has no function minters"
    ADD_POLICY_ADMINISTRATOR = "add policy administrators: it has no function addPolicyAdministrator"
    REMOVE_POLICY_ADMINISTRATOR = "remove policy administrators: it has no function removePolicyAdministrator"
    LIST_POLICY_ADMINISTRATORS = "list policy administrators: it has no function policyAdministrators"
    SET_POLICY = "set a policy: it has no function setPolicy"
    PAUSE = "pause: it has no function pause"
    UNPAUSE = "end a pause: it has no function unpause"
    WITHDRAW_OWNERSHIP = "withdraw an offer of its ownership: a transfer takes effect at once"
    ACCEPT_OWNERSHIP = "have its ownership accepted: it has no function acceptOwnership"
    LIST = "list nodes: it does not enumerate its tokens, so use 'info' or 'verify' for one node"


_SINCE_V2: Final = frozenset(
    {
        Action.INVITE,
        Action.DEFINE_TAG,
        Action.LIST_TAGS,
        Action.BATCH,
        Action.SET_TAGS,
        Action.SET_ROUTES,
        Action.LIST_MINTERS,
        Action.ADD_POLICY_ADMINISTRATOR,
        Action.REMOVE_POLICY_ADMINISTRATOR,
        Action.LIST_POLICY_ADMINISTRATORS,
        Action.SET_POLICY,
    }
)
"""The operations that the first version of our contract does not support."""


def require(abi: RegistryAbi, action: Action) -> None:
    """Raise `AdminError` if the contract does not support the operation."""
    too_old = action in _SINCE_V2 and isinstance(abi, AccessRegistryV1)
    if too_old or not isinstance(abi, AccessRegistry):
        raise AdminError(f"the contract is a {abi.name}, which can't {action.value}")


@dataclass(frozen=True, slots=True)
class Access:
    """The registry's address and its endpoints."""

    urls: Sequence[RpcUrl]
    chain_id: int
    contract: Address
    abi: RegistryAbi | None
    start_block: int | None = None

    async def reading(self, work: Callable[[RegistryReader], Awaitable[_T]]) -> _T:
        """Return the result of ``work`` at the first endpoint that serves.

        Raises `ChainError`, `AdminError`.
        """

        async def read(caller: Caller) -> _T:
            target = Target(self.contract, self.chain_id, abi=self.abi)
            settings = SessionSettings(start_block=self.start_block)
            return await work(await RegistryReader.open(caller, target, settings))

        return await on_first(self.urls, read)

    async def everything(self) -> RegistrySnapshot:
        """Return all nodes."""
        return await self.reading(RegistryReader.everything)

    async def list(self) -> RegistrySnapshot:
        """Return all nodes. Raises `AdminError` if the contract can't enumerate them."""

        async def read(reader: RegistryReader) -> RegistrySnapshot:
            require(reader.abi, Action.LIST)
            return await reader.everything()

        return await self.reading(read)

    async def one(self, name: NodeName) -> RegistrySnapshot:
        """Return one node only."""
        return await self.reading(lambda reader: reader.one(name))

    async def around(self, name: NodeName | None) -> RegistrySnapshot:
        """Return the nodes for a decision about one: all, or only that one without enumeration.

        ``name`` None requests all nodes. It is an `AdminError` if the contract does not enumerate.
        """

        async def read(reader: RegistryReader) -> RegistrySnapshot:
            if reader.abi.page_size:
                return await reader.everything()
            if name is None:
                require(reader.abi, Action.LIST)
                raise AssertionError(reader.abi.name)
            return await reader.one(name)

        return await self.reading(read)


@dataclass(frozen=True, slots=True)
class Registered:
    """A new node."""

    token: TokenId
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Administrator:
    """Sends transactions. Its methods return when the transaction is mined.

    Every method raises `AdminError` and `ChainError`, and `WithheldError` in another mode than
    `Mode.SEND`.
    """

    access: Access
    signer: Signer | Keyless
    progress: Progress
    timeout: float
    """Seconds to wait for a receipt."""
    mode: Mode = Mode.SEND

    async def deploy(self, owner: Address | None) -> Receipt:
        """Deploy our contract for ``owner``, by default the signing account."""
        data = calls.deploy(self.signer.address if owner is None else check_address(owner))

        async def work(caller: Caller) -> Receipt:
            seen = chain_id(await caller.call("eth_chainId"))
            if seen != self.access.chain_id:
                raise WrongChainError(
                    f"the endpoint serves chain {seen}, but chain {self.access.chain_id} is configured: "
                    "check RPC_URL, NETWORK and CHAIN_ID"
                )
            return await self._sender(caller).send(None, data)

        receipt = await on_first(self.access.urls, work)
        if receipt.contract is None:
            raise UnknownOutcomeError(
                f"transaction {receipt.hash} was mined, but its receipt names no contract: search for its "
                "hash in a block explorer before you deploy another"
            )
        return receipt

    async def register(
        self, to: Address, node_id: str, key: PublicKey, endpoint: PeerEndpoint | None, token_uri: str
    ) -> Registered:
        """Mint a node.

        An ``endpoint`` is stored in a token URI, which works for any holder and contract.
        """
        uri = token_uri if endpoint is None else uri_of(endpoint)
        abi, receipt = await self._send(calls.mint(check_address(to), node_id, key, uri))
        return Registered(_minted(abi, self.access.contract, receipt), receipt)

    async def update_key(self, node: Node, key: PublicKey) -> Receipt:
        """Set a node's key. Only its holder can."""
        return await self._do(calls.update_key(node.token_id, key), Action.UPDATE_KEY)

    async def set_endpoint(self, node: Node, endpoint: PeerEndpoint | None) -> Receipt:
        """Set or clear a node's endpoint. Only its holder can."""
        text = "" if endpoint is None else str(endpoint)
        return await self._do(calls.set_endpoint(node.token_id, text), Action.SET_ENDPOINT)

    async def set_expiry(self, node: Node, expires_at: int) -> Receipt:
        """Set the Unix time in seconds at which a node's access ends. 0: never."""
        return await self._do(calls.set_expiry(node.token_id, expires_at), Action.SET_EXPIRY)

    async def revoke(self, node: Node) -> Receipt:
        """Revoke a node's access."""
        return await self._do(calls.revoke(node.token_id))

    async def transfer(self, node: Node, to: Address) -> Receipt:
        """Transfer a node. The account must be its holder, or be approved by it."""
        return await self._do(calls.transfer(node.owner, check_address(to), node.token_id))

    async def administer(self, data: bytes, action: Action | None) -> Receipt:
        """Send a call that only needs the role of the account.

        ``action`` None: all contracts support it.
        """
        return await self._do(data, action)

    async def cancel_invitation(self, invitation_hash: bytes) -> Receipt:
        """Make an invitation useless. Only for minters."""
        return await self._do(invitations.cancel(invitation_hash), Action.INVITE)

    async def redeem(self, code: InvitationCode, key: PublicKey, endpoint: PeerEndpoint | None) -> Registered:
        """Register a node of the signing account by an invitation."""
        text = "" if endpoint is None else str(endpoint)
        proof = inviting.claim(code, self.signer.address, key, text)
        data = invitations.redeem(code.invitation, code.signature, key, text, proof)
        abi, receipt = await self._send(data, Action.INVITE)
        return Registered(_minted(abi, self.access.contract, receipt), receipt)

    # -- helpers -----------------------------------------------------------------------------------

    def _sender(self, caller: Caller) -> TransactionSender:
        return TransactionSender(
            caller, self.access.chain_id, self.signer, self.progress, self.timeout, self.mode
        )

    async def _do(self, data: bytes, action: Action | None = None) -> Receipt:
        return (await self._send(data, action))[1]

    async def _send(self, data: bytes, action: Action | None = None) -> tuple[RegistryAbi, Receipt]:
        async def work(reader: RegistryReader) -> tuple[RegistryAbi, Receipt]:
            if action is not None:
                require(reader.abi, action)
            return reader.abi, await self._sender(reader.caller).send(self.access.contract, data)

        return await self.access.reading(work)


_URI_HEAD: Final = "data:application/json;base64,"


def uri_of(endpoint: PeerEndpoint) -> str:
    """Return a token URI with the node's endpoint, which `adapters.contracts.token_uri` parses."""
    return _URI_HEAD + base64.b64encode(json.dumps({"endpoint": str(endpoint)}).encode()).decode("ascii")


def _minted(abi: RegistryAbi, contract: Address, receipt: Receipt) -> TokenId:
    events = (abi.decode(log) for address, log in receipt.logs if address == contract)
    for event in events:
        if isinstance(event, Granted):
            return event.token_id
    raise UnknownOutcomeError(
        f"transaction {receipt.hash} was mined, but its logs name no new node: check 'dstack-vpn node "
        "list' before you register it again"
    )
