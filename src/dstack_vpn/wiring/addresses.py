"""The network's addresses, as the settings give them."""

from dstack_vpn.config import Settings
from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.access.membership import PeerPolicy
from dstack_vpn.core.paths.destination import Destinations


def address_plan(settings: Settings) -> AddressPlan:
    """The tunnel addresses of this network."""
    ipv6 = unique_local_prefix(settings.chain_id, settings.contract_address)
    return AddressPlan(settings.vpn_cidr, ipv6)


def destinations(settings: Settings) -> Destinations:
    """Where packets for peers may be sent to: not into the tunnel."""
    return Destinations(address_plan(settings).networks)


def peer_policy(settings: Settings) -> PeerPolicy:
    """What the operator says about the peers."""
    return PeerPolicy(
        settings.peer_endpoints,
        settings.peer_endpoint_template,
        settings.persistent_keepalive,
        destinations(settings),
    )
