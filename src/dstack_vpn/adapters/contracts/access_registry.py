"""The codec of `contracts/src/AccessRegistry.sol`, this project's registry contract.

Its events determine a token's state with one exception: a grant does not contain the token URI, so
the token is read again. `Transfer` and `NodeAccessTransferred` both report a transfer; applying
both gives the same state as one. `PublicKeyUpdated` is ignored, because `NodeKeyUpdated` also names
the token.

A node that waits for its new holder's key is `active` without a key, as after the events. The
reason of its decision is then the missing key, not a revocation.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from dstack_vpn.adapters.contracts import contract_state, fields, logs, signatures
from dstack_vpn.adapters.contracts.abi import WORD, Reader, encode, topic_uint
from dstack_vpn.adapters.contracts.token_uri import endpoint_of
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.events import (
    EndpointUpdated,
    ExpiryUpdated,
    Granted,
    KeyUpdated,
    PolicyRead,
    RegistryEvent,
    RoutesUpdated,
    TagsUpdated,
    TokenState,
)
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import BlockRef, Position, TokenId
from dstack_vpn.errors import FormatError
from dstack_vpn.ports import Log

_TIME_BITS: Final = 64
_REVISION_BITS: Final = 64


def _key_updated(log: Log) -> KeyUpdated:
    (token,) = logs.indexed(log, 1)
    return KeyUpdated(topic_uint(token), fields.public_key(Reader(log.data).blob(0, 0)))


def _endpoint_updated(log: Log) -> EndpointUpdated:
    (token,) = logs.indexed(log, 1)
    return EndpointUpdated(topic_uint(token), fields.endpoint(Reader(log.data).blob(0, 0)))


def _expiry_updated(log: Log) -> ExpiryUpdated:
    (token,) = logs.indexed(log, 1)
    return ExpiryUpdated(topic_uint(token), Reader(log.data).uint(0, _TIME_BITS))


def _tags_updated(log: Log) -> TagsUpdated:
    (token,) = logs.indexed(log, 1)
    return TagsUpdated(topic_uint(token), Reader(log.data).uint(0))


def _routes_updated(log: Log) -> RoutesUpdated:
    (token,) = logs.indexed(log, 1)
    return RoutesUpdated(topic_uint(token), fields.routes(Reader(log.data).words(0, 0)))


_V1_DECODERS: Final[Mapping[str, logs.Decoder]] = {
    signatures.NODE_ACCESS_GRANTED: logs.granted,
    signatures.NODE_ACCESS_REVOKED: logs.revoked,
    signatures.NODE_ACCESS_TRANSFERRED: logs.access_transferred,
    signatures.NODE_KEY_UPDATED: _key_updated,
    signatures.NODE_ENDPOINT_UPDATED: _endpoint_updated,
    signatures.NODE_EXPIRY_UPDATED: _expiry_updated,
    signatures.TRANSFER: logs.erc721_transfer,
}
_DECODERS: Final[Mapping[str, logs.Decoder]] = {
    **_V1_DECODERS,
    signatures.NODE_TAGS_UPDATED: _tags_updated,
    signatures.NODE_ROUTES_UPDATED: _routes_updated,
    **contract_state.DECODERS,
}


def _node(data: Reader, base: int, *, has_rights: bool) -> Node:
    """Parse a ``NodeView``: eleven words, of which the four of the texts are offsets."""
    active, awaiting_key = data.flag(base + 9 * WORD), data.flag(base + 10 * WORD)
    return Node(
        token_id=data.uint(base),
        owner=data.address(base + WORD),
        node_id=fields.node_id(data.blob(base, base + 2 * WORD)),
        public_key=fields.public_key(data.blob(base, base + 3 * WORD)),
        endpoint=fields.endpoint(data.blob(base, base + 4 * WORD)),
        uri_endpoint=endpoint_of(data.blob(base, base + 5 * WORD)),
        key_since=Position(data.uint(base + 7 * WORD, _TIME_BITS), 0),
        expires_at=data.uint(base + 8 * WORD, _TIME_BITS),
        active=active or awaiting_key,
        tags=data.uint(base + 11 * WORD) if has_rights else 0,
        routes=fields.routes(data.words(base, base + 12 * WORD)) if has_rights else (),
    )


class AccessRegistry:
    """Implements `ports.RegistryAbi` for AccessRegistry."""

    name = "access-registry"
    topics = frozenset(_DECODERS)
    rereads: frozenset[type[RegistryEvent]] = frozenset({Granted})
    page_size = 500
    revision_call: bytes | None = signatures.REVISION
    _decoders = _DECODERS
    _has_rights = True

    def decode(self, log: Log) -> RegistryEvent | None:
        """See `ports.RegistryAbi.decode`."""
        return logs.decode(self._decoders, log)

    def token_calls(self, token_id: TokenId) -> tuple[bytes, ...]:
        """Return one call: ``getNode`` returns all fields."""
        return (signatures.GET_NODE + encode(token_id),)

    def parse_token(self, token_id: TokenId, replies: Sequence[bytes | None], at: BlockRef) -> TokenState:
        """See `ports.RegistryAbi.parse_token`; ``at`` is unused: the reply has the key's block."""
        (reply,) = replies
        if reply is None:
            return TokenState(token_id, None)
        data = Reader(reply)
        node = _node(data, data.uint(0), has_rights=self._has_rights)
        if node.token_id != token_id:
            raise FormatError("the contract returned another token than the requested one")
        return TokenState(token_id, node)

    def page_call(self, offset: int, limit: int) -> bytes:
        """Return a ``getNodes`` call; long token URIs may require a limit below `page_size`."""
        return signatures.GET_NODES + encode(offset, limit)

    def parse_page(self, reply: bytes, at: BlockRef) -> tuple[list[TokenState], int]:
        """See `ports.RegistryAbi.parse_page`."""
        data = Reader(reply)
        nodes = [_node(data, base, has_rights=self._has_rights) for base in data.tuples(0, 0)]
        return [TokenState(node.token_id, node) for node in nodes], data.uint(WORD)

    def parse_revision(self, reply: bytes) -> int:
        """See `ports.RegistryAbi.parse_revision`."""
        return Reader(reply).uint(0, _REVISION_BITS)

    def contract_calls(self) -> tuple[bytes, ...]:
        """See `ports.RegistryAbi.contract_calls`."""
        return contract_state.STATE_CALLS if self._has_rights else ()

    def parse_contract(self, replies: Sequence[bytes | None]) -> ContractState:
        """See `ports.RegistryAbi.parse_contract`."""
        return contract_state.parse_state(replies)

    def policy_calls(self) -> tuple[bytes, ...]:
        """See `ports.RegistryAbi.policy_calls`."""
        return contract_state.POLICY_CALLS if self._has_rights else ()

    def parse_policy(self, replies: Sequence[bytes | None]) -> PolicyRead:
        """See `ports.RegistryAbi.parse_policy`."""
        return contract_state.parse_policy(replies)


class AccessRegistryV1(AccessRegistry):
    """Implements `ports.RegistryAbi` for the first version of AccessRegistry.

    It has no tags, routes, policy, invitations and revision, and a key belongs to one token.
    """

    name = "access-registry-v1"
    topics = frozenset(_V1_DECODERS)
    revision_call: bytes | None = None
    _decoders = _V1_DECODERS
    _has_rights = False
