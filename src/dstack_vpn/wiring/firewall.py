"""The packet filter, if one is configured."""

from typing import Final

import structlog

from dstack_vpn.adapters.firewall import NftFirewall
from dstack_vpn.adapters.resolver import SystemResolver
from dstack_vpn.config import Settings
from dstack_vpn.core.observe.check import Check, failed, passed, warned
from dstack_vpn.core.observe.reports import FirewallReport
from dstack_vpn.core.paths.destination import Destinations
from dstack_vpn.daemon.device.firewall import FirewallController
from dstack_vpn.errors import FirewallError
from dstack_vpn.wiring.addresses import address_plan

UNPROTECTED: Final = (
    "packets from the VPN reach every address of this machine; blackhole routes alone stop leaks"
)
_log = structlog.get_logger(component="firewall")


def firewall_controller(settings: Settings) -> FirewallController | None:
    """Return the node's packet filter; None if the settings need none."""
    firewall = NftFirewall()
    protect = _protects(settings, firewall)
    if not protect and not settings.forward_to:
        return None
    addresses = address_plan(settings)
    prefixes = frozenset({str(addresses.ipv4), str(addresses.ipv6)})
    return FirewallController(
        firewall,
        SystemResolver(Destinations(addresses.networks)),
        settings.interface,
        prefixes,
        protect,
        _closed(settings),
        settings.forward_to,
    )


def unprotected(settings: Settings) -> FirewallReport | None:
    """Return and log a report if no packet filter protects the tunnel; None if one does."""
    if _protects(settings, NftFirewall()):
        return None
    off = settings.leak_protection == "off"
    why = "LEAK_PROTECTION=off" if off else "libnftables is not installed"
    report = FirewallReport(unprotected=f"{why}: {UNPROTECTED}", by_choice=off)
    _log.info("firewall.none", reason=report.unprotected)
    return report


def _protects(settings: Settings, firewall: NftFirewall) -> bool:
    return settings.leak_protection == "on" or (settings.leak_protection == "auto" and firewall.is_there)


def _closed(settings: Settings) -> frozenset[tuple[str, int]]:
    """Return the node's ports that lead into the tunnel again, except a port that is not fixed."""
    ports = {("udp", settings.listen_port)}
    if settings.relay_listen is not None:
        ports.add(("tcp", settings.relay_listen.port))
    return frozenset((protocol, port) for protocol, port in ports if port)


async def forwarding(settings: Settings) -> Check:
    """Check for ``doctor`` that this host accepts the packets that FORWARD_TO forwards."""
    firewall = NftFirewall()
    if not firewall.is_there:
        found = "FORWARD_TO needs libnftables, which is not installed"
        return failed("forwarding", found, "apt install nftables")
    hosts = {forward.host for forward in settings.forward_to}
    versions = {6 if ":" in host else 4 for host in hosts}
    try:
        conflict = await firewall.conflict(settings.interface, versions)
    except FirewallError as error:
        return warned("forwarding", str(error), "run as root")
    if conflict is None:
        return passed("forwarding", "no other table drops the packets that FORWARD_TO forwards")
    found, _, advice = conflict.partition("): ")
    return failed("forwarding", f"{found})", advice)
