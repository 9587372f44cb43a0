"""An invitation: the offer of a node, which a minter signs off chain.

An `Invitation` is valid by construction, so that a minter never signs one that the contract refuses
for its form. The fields, their order and the domain are those of `IAccessRegistry.Invitation`
(EIP-712). This module gives the inputs of the hash; `adapters.admin.signer` computes it and signs.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeAlias

from dstack_vpn.core.model import ZERO_ADDRESS, Address, Cidr
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

MAX_ROUTES: Final = 16
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_ADDRESS: Final = re.compile(r"0x[0-9a-f]{40}", re.ASCII)
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_INVITATION: Final = (
    ("nodeId", "string"),
    ("tags", "uint256"),
    ("routes", "bytes32[]"),
    ("expiresAt", "uint64"),
    ("deadline", "uint64"),
    ("minter", "address"),
    ("holder", "address"),
    ("claimant", "address"),
    ("salt", "uint256"),
)
_CLAIM: Final = (
    ("invitation", "bytes32"),
    ("redeemer", "address"),
    ("wireguardPublicKey", "string"),
    ("endpoint", "string"),
)


class TypedData(NamedTuple):
    """The input of an EIP-712 hash."""

    domain: Mapping[str, Any]
    types: Mapping[str, Any]
    message: Mapping[str, Any]


class RegistryAddress(NamedTuple):
    """The chain and the contract for which a signature is valid."""

    chain_id: int
    contract: Address


@dataclass(frozen=True, slots=True)
class Invitation:
    """The terms of an invitation. Construction raises `FormatError` for invalid terms."""

    node_id: str
    tags: int
    """Bit i stands for the i-th tag of the registry."""
    routes: tuple[Cidr, ...]
    """The networks behind the node, in ascending order."""
    expires_at: int
    """The last Unix second of the node's access; 0: no end."""
    deadline: int
    """The last Unix second in which the invitation can be redeemed."""
    minter: Address
    holder: Address
    """The only account that may redeem it; zero: any account with the one-time key."""
    claimant: Address
    """The address of the one-time key; zero with a holder."""
    salt: int

    def __post_init__(self) -> None:
        check_label(self.node_id, "node id")
        for value, bits in ((self.tags, 256), (self.salt, 256), (self.expires_at, 64), (self.deadline, 64)):
            if value < 0 or value >> bits:
                raise FormatError(f"invitation: a number has more than {bits} bits")
        if canonical_routes(self.routes) != self.routes:
            raise FormatError("invitation: its routes are not canonical")
        if not all(map(_ADDRESS.fullmatch, (self.minter, self.holder, self.claimant))):
            raise FormatError("invitation: an address is not 0x and 40 lower-case digits")
        if self.minter == ZERO_ADDRESS:
            raise FormatError("invitation: the minter is the zero address")
        if (self.holder == ZERO_ADDRESS) == (self.claimant == ZERO_ADDRESS):
            raise FormatError("invitation: expected either a holder or a one-time key")

    def typed_data(self, registry: RegistryAddress) -> TypedData:
        """Return the input of the hash that the minter signs."""
        message = {
            "nodeId": self.node_id,
            "tags": self.tags,
            "routes": [route_word(route) for route in self.routes],
            "expiresAt": self.expires_at,
            "deadline": self.deadline,
            "minter": self.minter,
            "holder": self.holder,
            "claimant": self.claimant,
            "salt": self.salt,
        }
        return TypedData(_domain(registry), {"Invitation": _fields(_INVITATION)}, message)


def claim_data(
    registry: RegistryAddress, invitation_hash: bytes, redeemer: Address, key: PublicKey, endpoint: str
) -> TypedData:
    """Return the input of the hash that the one-time key signs for the account that redeems."""
    message = {
        "invitation": invitation_hash,
        "redeemer": redeemer,
        "wireguardPublicKey": str(key),
        "endpoint": endpoint,
    }
    return TypedData(_domain(registry), {"Claim": _fields(_CLAIM)}, message)


def _domain(registry: RegistryAddress) -> Mapping[str, Any]:
    return {
        "name": "dstack-vpn access",
        "version": "2",
        "chainId": registry.chain_id,
        "verifyingContract": registry.contract,
    }


def _fields(pairs: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "type": kind} for name, kind in pairs]


def check_label(text: str, what: str) -> str:
    """Return a DNS label, the contract's form of a node id and a tag; raises `FormatError`."""
    if not _LABEL.fullmatch(text):
        raise FormatError(
            f"{what}: expected 1 to 63 of a-z, 0-9 and '-', without '-' at either end (example: web-1)"
        )
    return text


def canonical_routes(texts: Iterable[str]) -> tuple[Cidr, ...]:
    """Return routes in the contract's order.

    Raises `FormatError` for host bits, duplicates, one route inside another, and too many.
    """
    networks = sorted(map(_network, texts), key=lambda each: (each.version, int(each.network_address)))
    if len(networks) > MAX_ROUTES:
        raise FormatError(f"routes: {len(networks)}, but a node has at most {MAX_ROUTES}")
    for before, after in pairwise(networks):
        if before.version == after.version and int(after.network_address) <= int(before.broadcast_address):
            raise FormatError(f"routes: {before} and {after} overlap: keep one of them")
    return tuple(map(str, networks))


def _network(text: str) -> _Network:
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        found = None
    if found is None or "%" in text or "/" not in text:
        raise FormatError("routes: expected networks such as 10.0.0.0/8 or fd00::/8")
    if str(found) != text:
        raise FormatError(f"routes: a network is not in its canonical form: write {found}")
    return found


def route_word(route: Cidr) -> bytes:
    """Return a route in the contract's form: family, address and prefix length in one word."""
    network = ipaddress.ip_network(route)
    word = network.version << 248 | int(network.network_address) << 8 | network.prefixlen
    return word.to_bytes(32, "big")
