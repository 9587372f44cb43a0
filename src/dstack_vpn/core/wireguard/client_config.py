"""The configuration of a plain client, for wg-quick and the WireGuard apps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.model import Cidr, Endpoint
from dstack_vpn.core.wireguard.keys import PublicKey

KEEPALIVE: Final = 25
"""Seconds between keepalives, which keep the mapping of a NAT."""


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """The configuration of a plain client without its private key."""

    name: str
    gateway: str
    """The gateway's node id."""
    addresses: Sequence[Cidr]
    """The client's tunnel addresses."""
    public_key: PublicKey
    """The gateway's key."""
    endpoint: Endpoint
    """The gateway's UDP endpoint."""
    networks: Sequence[Cidr]
    """The prefixes that go into the tunnel: those of the VPN, or everything."""
    dns: Sequence[str] = field(default=())
    """The servers of names, and the domains to search in."""

    def render(self, private_key: str) -> str:
        """Return the text of the file with a private key in base64."""
        return "".join(f"{line}\n" for line in self._lines(private_key))

    def _lines(self, private_key: str) -> Iterator[str]:
        yield f"# {self.name}, a client of {self.gateway}"
        yield "[Interface]"
        yield f"PrivateKey = {private_key}"
        yield f"Address = {', '.join(self.addresses)}"
        if self.dns:
            yield f"DNS = {', '.join(self.dns)}"
        yield ""
        yield "[Peer]"
        yield f"PublicKey = {self.public_key}"
        yield f"Endpoint = {self.endpoint}"
        yield f"AllowedIPs = {', '.join(self.networks)}"
        yield f"PersistentKeepalive = {KEEPALIVE}"
