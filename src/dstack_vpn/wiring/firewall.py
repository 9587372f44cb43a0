"""The packet filter, if one is configured."""

from collections.abc import Collection
from contextlib import suppress
from typing import Final

import structlog

from dstack_vpn.adapters.doctor.machine import has_no_route
from dstack_vpn.adapters.firewall import NftFirewall
from dstack_vpn.config import Settings
from dstack_vpn.core.observe.check import Check, failed, passed, warned
from dstack_vpn.core.observe.reports import FirewallReport
from dstack_vpn.core.policy.networks import OwnNetworks
from dstack_vpn.errors import ConfigError, FirewallError
from dstack_vpn.ports import Forwarding

UNPROTECTED: Final = (
    "packets from the VPN reach every address of this machine; blackhole routes alone stop leaks"
)
_log = structlog.get_logger(component="firewall")


def unprotected(settings: Settings) -> FirewallReport | None:
    """Return and log a report if no packet filter protects the tunnel; None if one does."""
    if protects(settings):
        return None
    off = settings.leak_protection == "off"
    why = "LEAK_PROTECTION=off" if off else "libnftables is not installed"
    report = FirewallReport(unprotected=f"{why}: {UNPROTECTED}", by_choice=off)
    _log.info("firewall.none", reason=report.unprotected)
    return report


def protects(settings: Settings) -> bool:
    """Return whether the settings ask for a packet filter around the tunnel."""
    return settings.leak_protection == "on" or (settings.leak_protection == "auto" and NftFirewall().is_there)


def check_exit(settings: Settings) -> None:
    """Raise `ConfigError` if the settings ask for an exit, and nothing could guard it."""
    if settings.exit_node and not NftFirewall().is_there:
        missing = "EXIT_NODE: needs libnftables, which is not installed: apt install nftables"
        raise ConfigError([f"{missing}. Example: EXIT_NODE="])


def closed_ports(settings: Settings) -> frozenset[tuple[str, int]]:
    """Return the node's ports that lead into the tunnel again, except a port that is not fixed."""
    ports = {("udp", settings.listen_port)}
    if settings.relay_listen is not None:
        ports.add(("tcp", settings.relay_listen.port))
    return frozenset((protocol, port) for protocol, port in ports if port)


async def forwarding_for_clients(settings: Settings, clients: int) -> Check:
    """Check for ``doctor`` that this machine forwards the packets of its plain clients."""
    problem = await _obstacle(settings, (4, 6), Forwarding.CLIENTS)
    if problem is None:
        return passed("clients", f"this machine forwards for its clients ({clients})")
    found, _, advice = problem.partition(": ")
    return failed("clients", found, advice)


async def forwarding_to_networks(settings: Settings, networks: OwnNetworks) -> Check:
    """Check for ``doctor`` that this machine forwards packets to the networks behind it."""
    problem = await _obstacle(settings, networks.versions, Forwarding.NETWORKS)
    if problem is not None:
        found, _, advice = problem.partition(": ")
        return failed("networks", found, advice)
    if networks.refused:
        advice = "correct the routes with 'dstack-vpn node routes'"
        return warned("networks", f"it does not forward to {'; '.join(networks.refused)}", advice)
    if lost := sorted(filter(has_no_route, networks.usable)):
        return warned("networks", f"this machine has no route to {', '.join(lost)}", "see 'ip route get'")
    return passed("networks", f"this machine forwards to {', '.join(sorted(networks.usable))}")


async def _obstacle(settings: Settings, versions: Collection[int], where: Forwarding) -> str | None:
    firewall = NftFirewall()
    problem = await firewall.forwards_nothing(versions)
    with suppress(FirewallError):  # without nftables, no table of it drops packets
        problem = problem or await firewall.conflict(settings.interface, versions, where)
    return problem


async def forwarding(settings: Settings) -> Check:
    """Check for ``doctor`` that this host accepts the packets that FORWARD_TO forwards."""
    firewall = NftFirewall()
    if not firewall.is_there:
        found = "FORWARD_TO needs libnftables, which is not installed"
        return failed("forwarding", found, "apt install nftables")
    hosts = {forward.host for forward in settings.forward_to}
    versions = {6 if ":" in host else 4 for host in hosts}
    try:
        conflict = await firewall.conflict(settings.interface, versions, Forwarding.PORTS)
    except FirewallError as error:
        return warned("forwarding", str(error), "run as root")
    if conflict is None:
        return passed("forwarding", "no other table drops the packets that FORWARD_TO forwards")
    found, _, advice = conflict.partition("): ")
    return failed("forwarding", f"{found})", advice)
