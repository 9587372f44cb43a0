"""Tunnel addresses, derived from the token id alone.

Every node computes the same addresses independently, and two tokens never share one: token *n* has
``network + 1 + n`` in the IPv4 range, if that is still inside it, and always
``prefix::(n + 1)`` in an IPv6 unique local /48 that chain id and contract address determine. Adding
1 keeps both clear of the network's own address (and of the subnet-router anycast address, RFC 4291
section 2.6.1).
"""

import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from dstack_vpn.core.addresses import parse_ip
from dstack_vpn.core.model import Address, Cidr, TokenId

IPv4Network = ipaddress.IPv4Network
IPv6Network = ipaddress.IPv6Network


def unique_local_prefix(chain_id: int, contract: Address) -> IPv6Network:
    """Return the registry's own /48 (RFC 4193: ``fd`` and a 40-bit global id).

    It is the same on every node.
    """
    digest = hashlib.sha256(f"dstack-vpn:{chain_id}:{contract.lower()}".encode()).digest()
    return IPv6Network((b"\xfd" + digest[:5] + bytes(10), 48))


@dataclass(frozen=True)
class AddressPlan:
    """An injective mapping between token ids and tunnel addresses."""

    ipv4: IPv4Network
    ipv6: IPv6Network

    @property
    def networks(self) -> tuple[IPv4Network, IPv6Network]:
        """Return the IPv4 and the IPv6 prefix."""
        return self.ipv4, self.ipv6

    @cached_property
    def _ipv4_base(self) -> int:
        return int(self.ipv4.network_address) + 1

    @cached_property
    def _ipv4_room(self) -> int:
        """Return the number of tokens between the network and the broadcast address."""
        return self.ipv4.num_addresses - 2

    @cached_property
    def _ipv6_base(self) -> int:
        return int(self.ipv6.network_address) + 1

    @cached_property
    def _ipv6_room(self) -> int:
        return self.ipv6.num_addresses - 1

    def ipv4_of(self, token: TokenId) -> ipaddress.IPv4Address | None:
        """Return the token's IPv4 address, or None if the range is too small for its id."""
        return ipaddress.IPv4Address(self._ipv4_base + token) if 0 <= token < self._ipv4_room else None

    def ipv6_of(self, token: TokenId) -> ipaddress.IPv6Address | None:
        """Return the token's IPv6 address.

        None for ids of 2^80 - 1 and more, which a /48 cannot hold.
        """
        return ipaddress.IPv6Address(self._ipv6_base + token) if 0 <= token < self._ipv6_room else None

    def texts_of(self, token: TokenId) -> tuple[str, ...]:
        """Return the token's addresses as text, the IPv4 address first."""
        found = self.ipv4_of(token), self.ipv6_of(token)
        return tuple(str(ip) for ip in found if ip is not None)

    def allowed_ips(self, token: TokenId) -> frozenset[Cidr]:
        """Return the token's addresses as single-host prefixes; empty if it has no address."""
        ipv4, ipv6 = self.ipv4_of(token), self.ipv6_of(token)
        return frozenset(f"{ip}/{ip.max_prefixlen}" for ip in (ipv4, ipv6) if ip is not None)

    def has_room_for(self, token: TokenId) -> bool:
        """Return whether the token has an address."""
        return 0 <= token < self._ipv6_room

    def token_at(self, address: str) -> TokenId | None:
        """Return the token of an address, or None if it belongs to no token or is malformed."""
        if (ip := parse_ip(address)) is None:
            return None
        base, room = (
            (self._ipv4_base, self._ipv4_room) if ip.version == 4 else (self._ipv6_base, self._ipv6_room)
        )
        token = int(ip) - base
        return token if 0 <= token < room else None

    def tokens_at(self, prefixes: Iterable[Cidr]) -> set[TokenId]:
        """Return the tokens of these single-host prefixes."""
        found = (self.token_at(prefix.partition("/")[0]) for prefix in prefixes)
        return {token for token in found if token is not None}
