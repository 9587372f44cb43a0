"""The packet filter, where the settings ask for one."""

import structlog

from dstack_vpn.adapters.firewall import NftFirewall
from dstack_vpn.adapters.resolver import SystemResolver
from dstack_vpn.bridge.gate import Gate
from dstack_vpn.bridge.node import Node
from dstack_vpn.config import Settings

_log = structlog.get_logger(component="firewall")


def gate(settings: Settings, node: Node) -> Gate | None:
    """The node's packet filter; None where there is to be none."""
    firewall = NftFirewall()
    protect = settings.leak_protection == "on" or (settings.leak_protection == "auto" and firewall.is_there)
    if not protect and not settings.forward_to:
        if settings.leak_protection == "auto":
            _log.info("firewall.none", reason="nft is not installed: only blackhole routes keep packets in")
        return None
    addresses = node.tunnel.members.addresses
    prefixes = frozenset({str(addresses.ipv4), str(addresses.ipv6)})
    return Gate(
        firewall,
        SystemResolver(),
        node.facts,
        settings.interface,
        prefixes,
        protect,
        settings.forward_to,
    )
