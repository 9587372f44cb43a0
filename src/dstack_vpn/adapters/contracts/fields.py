"""Parsers from the chain's raw text to the core's fields: valid, absent or `Malformed`.

Text from the chain is validated here. A `Malformed` field describes the problem without quoting the
text, so hostile text reaches no log line or page through an error message.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from dstack_vpn.core.model import ENDPOINT_LENGTH, Malformed, parse_node_id
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

T = TypeVar("T")

_MAX_NODE_ID: Final = 63
_MAX_KEY: Final = 44


def node_id(raw: bytes) -> str | Malformed:
    """Parse a node id."""
    return _parse(raw, "node id", _MAX_NODE_ID, parse_node_id)


def public_key(raw: bytes) -> PublicKey | Malformed | None:
    """Parse a node's key; return None for an empty text."""
    return _parse(raw, "key", _MAX_KEY, PublicKey.parse) if raw else None


def endpoint(raw: bytes) -> PeerEndpoint | Malformed | None:
    """Parse a node's endpoint; return None for an empty text."""
    return _parse(raw, "endpoint", ENDPOINT_LENGTH, PeerEndpoint.parse) if raw else None


def _parse(raw: bytes, what: str, limit: int, parse: Callable[[str], T]) -> T | Malformed:
    if len(raw) > limit:
        return Malformed(f"{what}: {len(raw)} bytes, of at most {limit}")
    try:
        return parse(raw.decode("ascii"))
    except UnicodeDecodeError:
        return Malformed(f"{what}: not plain ASCII")
    except FormatError as error:
        return Malformed(str(error))
