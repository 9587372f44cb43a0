"""The packet filter, where the settings ask for one."""

import structlog

from dstack_vpn.adapters.doctor.check import Check, failed, passed, warned
from dstack_vpn.adapters.firewall import NftFirewall
from dstack_vpn.adapters.resolver import SystemResolver
from dstack_vpn.bridge.gate import Gate
from dstack_vpn.bridge.node import Node
from dstack_vpn.config import Settings
from dstack_vpn.core.destination import Destinations
from dstack_vpn.errors import FirewallError

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
        SystemResolver(Destinations(addresses.networks)),
        node.facts,
        settings.interface,
        prefixes,
        protect,
        settings.forward_to,
    )


async def forwarding(settings: Settings) -> Check:
    """For ``doctor``: whether this host lets through what FORWARD_TO hands on."""
    firewall = NftFirewall()
    if not firewall.is_there:
        return failed("forwarding", "FORWARD_TO needs nft, which is not installed", "apt install nftables")
    hosts = {forward.host for forward in settings.forward_to}
    versions = {6 if ":" in host else 4 for host in hosts}
    try:
        conflict = await firewall.conflict(settings.interface, versions)
    except FirewallError as error:
        return warned("forwarding", str(error), "run as root")
    if conflict is None:
        return passed("forwarding", "no other table drops what FORWARD_TO hands on")
    found, _, advice = conflict.partition("): ")
    return failed("forwarding", f"{found})", advice)
