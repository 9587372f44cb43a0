"""The network's addresses, from the settings."""

from dstack_vpn.config import Settings
from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.access.membership import PeerPolicy
from dstack_vpn.core.paths.destination import Destinations


def address_plan(settings: Settings) -> AddressPlan:
    """Return the address plan of this network's tunnel."""
    ipv6 = unique_local_prefix(settings.chain_id, settings.contract_address)
    return AddressPlan(settings.vpn_cidr, ipv6)


def destinations(settings: Settings) -> Destinations:
    """Return the allowed destinations of packets for peers: the tunnel is not one."""
    return Destinations(address_plan(settings).networks)


def peer_policy(settings: Settings) -> PeerPolicy:
    """Return the operator's settings for the peers."""
    return PeerPolicy(
        settings.peer_endpoints,
        settings.peer_endpoint_template,
        settings.persistent_keepalive,
        destinations(settings),
    )
