"""The values of the core: blocks, endpoints, peers and devices.

All data from the chain passes a parser here (or in `core.wireguard.keys`) before it becomes a
field. A refused value is kept as `Malformed`, so that a decision can give the reason why a node is
not on the network, without the hostile text itself.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self, TypeAlias

from dstack_vpn.core.addresses import bracketed, parse_ip, split_host_port
from dstack_vpn.core.paths.destination import check_reachable
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

TokenId: TypeAlias = int
Address: TypeAlias = str
"""An account: ``0x`` and 40 lower-case hexadecimal digits."""

Cidr: TypeAlias = str
"""A prefix in canonical text (RFC 5952 for IPv6), such as ``10.77.0.2/32``, as devices use it."""

ZERO_ADDRESS: Final[Address] = "0x" + "0" * 40

_NODE_ID: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
ENDPOINT_LENGTH: Final = 262
"""Characters: the longest host name, brackets, a colon and a port."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A field that was refused; ``problem`` is the reason, without any text from the chain."""

    problem: str


def parse_node_id(text: str) -> str:
    """Accept 1 to 63 characters of ``A-Z a-z 0-9 . _ -`` that begin and end with a letter or digit.

    Our own registry allows only DNS labels; the deployed one does not check, hence the wider set.
    Raises `FormatError`.
    """
    if not _NODE_ID.fullmatch(text):
        raise FormatError("node id: expected 1 to 63 letters, digits, '.', '_' or '-'")
    return text


def parse_tag(text: str) -> str:
    """Accept a DNS label: 1 to 63 of ``a-z 0-9 -``, without a ``-`` at either end.

    Raises `FormatError`.
    """
    if not _LABEL.fullmatch(text):
        raise FormatError("tag: expected 1 to 63 of a-z, 0-9 and '-', without a '-' at either end")
    return text


class SocketAddress(NamedTuple):
    """A resolved UDP endpoint: an IP address in canonical text and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Return whether it is on this machine.

        A peer that our relay carries has such an endpoint on the device.
        """
        return ipaddress.ip_address(self.host).is_loopback


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A peer's stated endpoint: a host name or an IP address, and a UDP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``host:port`` or ``[v6]:port``; raises `FormatError`.

        URLs are refused, and so are addresses that can't be another machine's
        (`core.paths.destination`), so that no registration makes a node send to itself or to its
        link.
        """
        if len(text) > ENDPOINT_LENGTH:
            raise FormatError(f"endpoint: longer than {ENDPOINT_LENGTH} characters")
        try:
            host, port = split_host_port(text)
        except FormatError as error:
            raise FormatError(f"endpoint: {error}") from None
        if (address := parse_ip(host)) is not None:
            if "%" in host:
                raise FormatError("endpoint: a zone has no meaning on another machine")
            check_reachable(address)
        elif host.removesuffix(".").rpartition(".")[2].lower() == "localhost":
            raise FormatError("endpoint: localhost cannot be a peer's endpoint")
        return cls(host, port)

    @property
    def address(self) -> SocketAddress | None:
        """Return the socket address if the host is an IP address; None if it must be resolved."""
        return None if parse_ip(self.host) is None else SocketAddress(self.host, self.port)

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"


# -- chain -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BlockRef:
    """The part of a block header that following a chain needs.

    Hashes are ``0x`` and 64 lower-case digits.
    """

    number: int
    hash: str
    parent_hash: str
    timestamp: int
    """Unix seconds; several blocks may share one, so it is not used for ordering."""


class Position(NamedTuple):
    """A position in the chain's order; compares in that order."""

    block: int
    log_index: int


GENESIS: Final = Position(0, 0)
END_OF_BLOCK: Final = 2**32
"""The `Position.log_index` of a state that was read after a block's last log."""


@dataclass(frozen=True, slots=True)
class ChainIdentity:
    """The identity of one registry on one chain; checked at every connect."""

    chain_id: int
    genesis_hash: str
    contract: Address


# -- devices ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peer:
    """The desired configuration of a WireGuard peer."""

    public_key: PublicKey
    allowed_ips: frozenset[Cidr]
    endpoint: SocketAddress | None = None
    """None: the peer sends first, or keeps the endpoint to which it roamed."""
    keepalive: int = 0
    """Seconds between persistent keepalives; 0 is off."""


@dataclass(frozen=True, slots=True)
class PeerState:
    """A WireGuard peer as a device reports it."""

    public_key: PublicKey
    allowed_ips: frozenset[Cidr]
    endpoint: SocketAddress | None = None
    keepalive: int = 0
    last_handshake: float = 0.0
    """Unix seconds; 0: never."""
    rx_bytes: int = 0
    tx_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A WireGuard device as it reports itself, without the private key."""

    public_key: PublicKey | None
    listen_port: int
    fwmark: int = 0
    peers: Mapping[PublicKey, PeerState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SetPeer:
    """An operation that adds a peer, or changes the given fields of an existing one."""

    public_key: PublicKey
    endpoint: SocketAddress | None = None
    keepalive: int | None = None
    allowed_ips: frozenset[Cidr] | None = None
    """None: unchanged. Otherwise added, or with ``replace_allowed_ips`` the whole new set."""
    replace_allowed_ips: bool = False


@dataclass(frozen=True, slots=True)
class RemovePeer:
    """An operation that removes a peer; it succeeds if the peer does not exist."""

    public_key: PublicKey


PeerChange: TypeAlias = SetPeer | RemovePeer
