"""The facts that the core reasons about: blocks, endpoints, peers and devices.

Whatever comes from the chain passes one of the parsers here (or in `keys`) before it becomes a field.
What a parser refuses is kept as `Malformed`, so that a decision can say why a node is not on the network
without the hostile text itself travelling any further.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self, TypeAlias

from dstack_vpn.core.paths.destination import check_reachable
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

TokenId: TypeAlias = int
Address: TypeAlias = str
"""An account: ``0x`` and 40 lower-case hexadecimal digits."""

Cidr: TypeAlias = str
"""A prefix in canonical text (RFC 5952 for IPv6), such as ``10.77.0.2/32``: what devices speak."""

ZERO_ADDRESS: Final[Address] = "0x" + "0" * 40

_NODE_ID: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)
_HOST_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_HOST_LENGTH: Final = 253
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
ENDPOINT_LENGTH: Final = 262
"""Characters: the longest host name, brackets, a colon and a port."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A field that was refused; ``problem`` says why in our own words, never in the chain's."""

    problem: str


def parse_node_id(text: str) -> str:
    """Accept 1 to 63 characters of ``A-Z a-z 0-9 . _ -`` that begin and end with a letter or digit.

    Our own registry allows only DNS labels; the deployed one does not check, hence the wider set.
    Raises `FormatError`.
    """
    if not _NODE_ID.fullmatch(text):
        raise FormatError("node id: expected 1 to 63 letters, digits, '.', '_' or '-'")
    return text


class SocketAddress(NamedTuple):
    """A resolved UDP endpoint: an IP address in canonical text and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine: WireGuard hears a peer from there whom a relay of ours carries."""
        return ipaddress.ip_address(self.host).is_loopback


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a peer says it can be reached: a host name or an IP address, and a UDP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``host:port`` or ``[v6]:port``; raises `FormatError`.

        URLs are refused, and addresses that can't be another machine's (`core.paths.destination`), so that no
        registration makes a node send to itself or to its link.
        """
        if len(text) > ENDPOINT_LENGTH:
            raise FormatError(f"endpoint: longer than {ENDPOINT_LENGTH} characters")
        host, _, port = text.rpartition(":")
        if not host or not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
            raise FormatError("endpoint: expected host:port, such as vpn.example.org:51820")
        return cls(_parse_host(host), int(port))

    @property
    def address(self) -> SocketAddress | None:
        """The socket address where the host is an IP address, else None: it must be resolved."""
        try:
            return SocketAddress(str(ipaddress.ip_address(self.host)), self.port)
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _parse_host(host: str) -> str:
    bracketed = host.startswith("[") and host.endswith("]")
    literal = host[1:-1] if bracketed else host
    try:
        address = ipaddress.ip_address(literal)
    except ValueError:
        if bracketed:
            raise FormatError("endpoint: no IPv6 address between the brackets") from None
        return parse_host_name(host)
    if bracketed is not (address.version == 6) or getattr(address, "scope_id", None):
        raise FormatError("endpoint: write an IPv6 address in brackets and without a zone")
    check_reachable(address)
    return str(address)


def parse_host_name(host: str) -> str:
    """Accept a DNS host name; raises `FormatError`."""
    labels = host.removesuffix(".").split(".")
    # A name that ends in a number is an address in some odd notation to most resolvers (127.1, 0x7f.1).
    numeric = labels[-1].isdigit() or labels[-1].lower().startswith("0x")
    if len(host) > _HOST_LENGTH or numeric or not all(_HOST_LABEL.fullmatch(x) for x in labels):
        raise FormatError("endpoint: expected host:port, such as vpn.example.org:51820")
    if labels[-1].lower() == "localhost":
        raise FormatError("endpoint: localhost is nobody's endpoint")
    return host


# -- chain --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BlockRef:
    """A block header, as much of it as following a chain needs. Hashes are ``0x`` + 64 lower-case digits."""

    number: int
    hash: str
    parent_hash: str
    timestamp: int
    """Unix seconds; several blocks share one, so nothing is ever ordered by it."""


class Position(NamedTuple):
    """Where in the chain's order something happened; compares in that order."""

    block: int
    log_index: int


GENESIS: Final = Position(0, 0)
END_OF_BLOCK: Final = 2**32
"""The `Position.log_index` of a fact that was read from the state after a block's last log."""


@dataclass(frozen=True, slots=True)
class ChainIdentity:
    """What tells one registry on one chain from any other; checked at every connect."""

    chain_id: int
    genesis_hash: str
    contract: Address


# -- devices ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peer:
    """A WireGuard peer as it should be configured."""

    public_key: PublicKey
    allowed_ips: frozenset[Cidr]
    endpoint: SocketAddress | None = None
    """None: leave it to the peer to call, or to where it roamed."""
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
    """Unix seconds; 0 means never."""
    rx_bytes: int = 0
    tx_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A WireGuard device as it reports itself; the private key stays where it was read."""

    public_key: PublicKey | None
    listen_port: int
    fwmark: int = 0
    peers: Mapping[PublicKey, PeerState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SetPeer:
    """Add a peer, or change only what is given here of one that exists."""

    public_key: PublicKey
    endpoint: SocketAddress | None = None
    keepalive: int | None = None
    allowed_ips: frozenset[Cidr] | None = None
    """None: untouched. Else added, or with ``replace_allowed_ips`` the whole new set."""
    replace_allowed_ips: bool = False


@dataclass(frozen=True, slots=True)
class RemovePeer:
    """Remove a peer; removing one that is not there is no error."""

    public_key: PublicKey


PeerChange: TypeAlias = SetPeer | RemovePeer
