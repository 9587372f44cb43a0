"""Parsers from the chain's raw text to the core's fields: valid, absent or `Malformed`.

Text from the chain is validated here. A `Malformed` field describes the problem without quoting the
text, so hostile text reaches no log line or page through an error message.
"""

from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network
from itertools import pairwise
from typing import Final, TypeVar

from dstack_vpn.core.model import ENDPOINT_LENGTH, Cidr, Malformed, parse_node_id
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

T = TypeVar("T")

_MAX_NODE_ID: Final = 63
_MAX_KEY: Final = 44
_MAX_ROUTES: Final = 16


def node_id(raw: bytes) -> str | Malformed:
    """Parse a node id."""
    return _parse(raw, "node id", _MAX_NODE_ID, parse_node_id)


def public_key(raw: bytes) -> PublicKey | Malformed | None:
    """Parse a node's key; return None for an empty text."""
    return _parse(raw, "key", _MAX_KEY, PublicKey.parse) if raw else None


def endpoint(raw: bytes) -> PeerEndpoint | Malformed | None:
    """Parse a node's endpoint; return None for an empty text."""
    return _parse(raw, "endpoint", ENDPOINT_LENGTH, PeerEndpoint.parse) if raw else None


def routes(words: Sequence[int]) -> tuple[Cidr, ...] | Malformed:
    """Parse routes: words of family, address and prefix length (`IAccessRegistry.setRoutes`)."""
    if len(words) > _MAX_ROUTES:
        return Malformed(f"routes: {len(words)}, of at most {_MAX_ROUTES}")
    try:
        found = [_network(word) for word in words]
    except ValueError:
        return Malformed("routes: not a network")
    for before, after in pairwise(found):
        if (before.version, int(before.broadcast_address)) >= (after.version, int(after.network_address)):
            return Malformed("routes: not ascending, or one inside another")
    return tuple(map(str, found))


def _network(word: int) -> IPv4Network | IPv6Network:
    """Parse a route; raises `ValueError`."""
    family, address, prefix = word >> 248, word >> 8 & (1 << 240) - 1, word & 0xFF
    if family not in {4, 6}:
        raise ValueError(f"unknown family {family}")
    return IPv4Network((address, prefix)) if family == 4 else IPv6Network((address, prefix))


def _parse(raw: bytes, what: str, limit: int, parse: Callable[[str], T]) -> T | Malformed:
    if len(raw) > limit:
        return Malformed(f"{what}: {len(raw)} bytes, of at most {limit}")
    try:
        return parse(raw.decode("ascii"))
    except UnicodeDecodeError:
        return Malformed(f"{what}: not plain ASCII")
    except FormatError as error:
        return Malformed(str(error))
