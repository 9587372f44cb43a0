"""Networks behind other nodes: those that this node accepts, and the reasons to refuse one.

The registry says which networks a node leads to. This host says which of them may be routed into
the tunnel: nothing that the host reaches in another way, and nothing that the tunnel itself needs,
whatever the registry says. A refused network changes nothing on the host.

A default route is never accepted here. It is an exit, which has a setting of its own (EXIT_NODE).

Networks of different gateways may overlap: WireGuard and the kernel both use the longest prefix.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from dstack_vpn.core.addresses import parse_ip, unmapped
from dstack_vpn.core.model import Cidr
from dstack_vpn.core.ownership import AddressFact, Claim, RouteFact, clashes
from dstack_vpn.core.paths.destination import IPNetwork, overlap, special_range
from dstack_vpn.errors import FormatError

_EXPECTED: Final = "expected none, all, or networks such as 10.9.0.0/24,2001:db8::/48"


@dataclass(frozen=True, slots=True)
class AcceptRoutes:
    """The setting ACCEPT_ROUTES."""

    everything: bool = False
    within: tuple[IPNetwork, ...] = ()
    """Networks that are within one of these are accepted."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``none``, ``all``, or networks with commas between; raises `FormatError`."""
        if text in {"none", "all"}:
            return cls(everything=text == "all")
        try:
            return cls(within=tuple(ipaddress.ip_network(part.strip()) for part in text.split(",")))
        except ValueError:
            raise FormatError(_EXPECTED) from None

    def __bool__(self) -> bool:
        return self.everything or bool(self.within)

    def includes(self, prefix: Cidr) -> bool:
        """Return whether a network is accepted. A default route never is."""
        network = ipaddress.ip_network(prefix)
        return network.prefixlen > 0 and (
            self.everything or any(_is_within(network, wider) for wider in self.within)
        )


NO_ROUTES: Final = AcceptRoutes()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The facts about this host that a network behind a node may conflict with."""

    interface: str
    prefixes: tuple[Cidr, ...]
    """The VPN's own prefixes."""
    index: int = 0
    """The index of our interface; 0: it does not exist."""
    routes: Sequence[RouteFact] = ()
    """The routes of the main table that may overlap."""
    addresses: Sequence[AddressFact] = ()
    needed: Sequence[tuple[str, str]] = ()
    """The machines that are reached outside of the tunnel: a name for each, and an address."""

    def refusal(self, prefix: Cidr) -> str | None:
        """Return the reason against a route to a network through the tunnel, or None."""
        network = ipaddress.ip_network(prefix)
        if not network.prefixlen:
            return "a default route is used only by EXIT_NODE"
        for own in self.prefixes:
            if overlap(network, ipaddress.ip_network(own)):
                return f"it overlaps {own}, which has the addresses of the members"
        if (kind := special_range(network)) is not None:
            return f"it contains {kind}"
        return self._host(prefix, network) or self._needed(network)

    def _needed(self, network: IPNetwork) -> str | None:
        for name, address in self.needed:
            if (found := parse_ip(address)) is not None and unmapped(found) in network:
                return f"{name} ({address}) must be reached outside of the tunnel"
        return None

    def _host(self, prefix: Cidr, network: IPNetwork) -> str | None:
        for address in self.addresses:
            if address.index != self.index and overlap(network, ipaddress.ip_interface(address.cidr).network):
                return f"this host has the address {address.cidr} on {address.device}"
        claim = Claim(self.interface, (prefix,))
        for route in self.routes:
            if clashes(route, claim, self.index) is not None:
                return f"this host has the route {route}"
        return None


def _is_within(network: IPNetwork, wider: IPNetwork) -> bool:
    return (
        network.version == wider.version
        and wider.prefixlen <= network.prefixlen
        and network.network_address in wider
    )
