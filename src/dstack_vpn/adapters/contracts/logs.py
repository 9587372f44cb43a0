"""Decoders of the events that both registry contracts emit, and the lookup of a log's decoder.

Decoders raise only `FormatError`, for a log whose topics or data do not have its event's form.
Invalid content of a field is not an error: the field becomes `Malformed`.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from dstack_vpn.adapters.contracts import fields
from dstack_vpn.adapters.contracts.abi import Reader, topic_address, topic_uint
from dstack_vpn.core.chain.events import Granted, RegistryEvent, Revoked, Transferred
from dstack_vpn.core.model import ZERO_ADDRESS
from dstack_vpn.errors import FormatError
from dstack_vpn.ports import Log

Decoder: TypeAlias = Callable[[Log], RegistryEvent | None]


def decode(decoders: Mapping[str, Decoder], log: Log) -> RegistryEvent | None:
    """Return the log's event; None without a decoder for it."""
    decoder = decoders.get(log.topics[0]) if log.topics else None
    return decoder(log) if decoder else None


def indexed(log: Log, count: int) -> tuple[str, ...]:
    """Return the log's indexed arguments; raises `FormatError` unless their number is ``count``."""
    if len(log.topics) != count + 1:
        raise FormatError(f"a log with {len(log.topics)} topics, but its event has {count + 1}")
    return log.topics[1:]


def granted(log: Log) -> Granted:
    """Decode ``NodeAccessGranted(uint256 indexed, string, address indexed, string)``."""
    token, owner = indexed(log, 2)
    data = Reader(log.data)
    return Granted(
        token_id=topic_uint(token),
        owner=topic_address(owner),
        node_id=fields.node_id(data.blob(0, 0)),
        public_key=fields.public_key(data.blob(0, 32)),
    )


def revoked(log: Log) -> Revoked:
    """Decode ``NodeAccessRevoked(uint256 indexed, string)``; the node id is not needed."""
    (token,) = indexed(log, 1)
    return Revoked(topic_uint(token))


def access_transferred(log: Log) -> Transferred:
    """Decode ``NodeAccessTransferred(uint256 indexed, address indexed, address indexed)``."""
    token, _, recipient = indexed(log, 3)
    return Transferred(topic_uint(token), topic_address(recipient))


def erc721_transfer(log: Log) -> Revoked | Transferred | None:
    """Decode ERC-721's ``Transfer``. A burn revokes; a mint is ignored, as the grant reports it."""
    sender, recipient, token = indexed(log, 3)
    if topic_address(recipient) == ZERO_ADDRESS:
        return Revoked(topic_uint(token))
    if topic_address(sender) == ZERO_ADDRESS:
        return None
    return Transferred(topic_uint(token), topic_address(recipient))
