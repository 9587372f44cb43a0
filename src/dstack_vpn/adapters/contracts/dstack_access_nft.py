"""The codec of DstackAccessNft, the registry contract that is already deployed.

Its source is not public. Its interface does not define if a revocation burns the token, if a
transfer keeps the key, and if a key belongs to a token or to an owner. Therefore each token that an
event concerns is read again at the event's block. The contract can't enumerate its tokens
(`page_size` is 0): they are those that the logs name.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from dstack_vpn.adapters.contracts import fields, logs, signatures
from dstack_vpn.adapters.contracts.abi import WORD, Reader, encode, topic_address
from dstack_vpn.adapters.contracts.token_uri import endpoint_of
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.events import (
    Granted,
    OwnerKeyUpdated,
    PolicyRead,
    RegistryEvent,
    Revoked,
    TokenState,
    Transferred,
)
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import END_OF_BLOCK, ZERO_ADDRESS, BlockRef, Malformed, Position, TokenId
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.errors import FormatError
from dstack_vpn.ports import Log


def _public_key_updated(log: Log) -> OwnerKeyUpdated:
    (owner,) = logs.indexed(log, 1)
    return OwnerKeyUpdated(topic_address(owner), fields.public_key(Reader(log.data).blob(0, 0)))


_DECODERS: Final[Mapping[str, logs.Decoder]] = {
    signatures.NODE_ACCESS_GRANTED: logs.granted,
    signatures.NODE_ACCESS_REVOKED: logs.revoked,
    signatures.NODE_ACCESS_TRANSFERRED: logs.access_transferred,
    signatures.PUBLIC_KEY_UPDATED: _public_key_updated,
    signatures.TRANSFER: logs.erc721_transfer,
}


def _node(token_id: TokenId, owner: str, access: bytes, uri: bytes | None, at: BlockRef) -> Node:
    """Parse the reply to ``getNodeAccess``, which does not contain the block of the key."""
    data = Reader(access)
    return Node(
        token_id=token_id,
        owner=owner,
        node_id=fields.node_id(data.blob(0, 0)),
        public_key=fields.public_key(data.blob(0, WORD)),
        active=data.flag(3 * WORD),
        uri_endpoint=_uri_endpoint(uri),
        key_since=Position(at.number, END_OF_BLOCK),
    )


def _uri_endpoint(reply: bytes | None) -> PeerEndpoint | Malformed | None:
    return None if reply is None else endpoint_of(Reader(reply).blob(0, 0))


class DstackAccessNft:
    """Implements `ports.RegistryAbi` for the deployed contract."""

    name = "dstack-access-nft"
    topics = frozenset(_DECODERS)
    rereads: frozenset[type[RegistryEvent]] = frozenset({Granted, Revoked, Transferred, OwnerKeyUpdated})
    page_size = 0
    revision_call: bytes | None = None

    def decode(self, log: Log) -> RegistryEvent | None:
        """See `ports.RegistryAbi.decode`."""
        return logs.decode(_DECODERS, log)

    def token_calls(self, token_id: TokenId) -> tuple[bytes, ...]:
        """Return three calls: ``getNodeAccess``, ``ownerOf`` and ``tokenURI``."""
        selectors = (signatures.GET_NODE_ACCESS, signatures.OWNER_OF, signatures.TOKEN_URI)
        return tuple(selector + encode(token_id) for selector in selectors)

    def parse_token(self, token_id: TokenId, replies: Sequence[bytes | None], at: BlockRef) -> TokenState:
        """See `ports.RegistryAbi.parse_token`. Without an owner or entry, the token is burned."""
        access, owner_reply, uri = replies
        if access is None or owner_reply is None:
            return TokenState(token_id, None)
        owner = Reader(owner_reply).address(0)
        if owner == ZERO_ADDRESS:
            return TokenState(token_id, None)
        return TokenState(token_id, _node(token_id, owner, access, uri, at))

    def page_call(self, offset: int, limit: int) -> bytes:
        """Raise `FormatError`: `page_size` is 0."""
        raise FormatError("this contract can't enumerate its tokens")

    def parse_page(self, reply: bytes, at: BlockRef) -> tuple[list[TokenState], int]:
        """Raise `FormatError`: `page_size` is 0."""
        raise FormatError("this contract can't enumerate its tokens")

    def parse_revision(self, reply: bytes) -> int:
        """Raise `FormatError`: `revision_call` is None."""
        raise FormatError("this contract doesn't count its changes")

    def contract_calls(self) -> tuple[bytes, ...]:
        """Return no calls: the contract has no tags, policy and enumerable roles."""
        return ()

    def parse_contract(self, replies: Sequence[bytes | None]) -> ContractState:
        """Raise `FormatError`: there are no `contract_calls`."""
        raise FormatError("this contract has no state of its own")

    def policy_calls(self) -> tuple[bytes, ...]:
        """Return no calls: the contract has no policy."""
        return ()

    def parse_policy(self, replies: Sequence[bytes | None]) -> PolicyRead:
        """Raise `FormatError`: there are no `policy_calls`."""
        raise FormatError("this contract has no policy")
