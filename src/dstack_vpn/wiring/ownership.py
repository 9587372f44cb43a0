"""The node's claims on this host, and the check for conflicts before anything is changed."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final

import structlog

from dstack_vpn.adapters.device.interface import Interface
from dstack_vpn.adapters.device.survey import survey
from dstack_vpn.adapters.keys.keyring import FileKeyRing
from dstack_vpn.adapters.resolver import SystemResolver
from dstack_vpn.adapters.store import instance
from dstack_vpn.adapters.store.archive import FileArchive
from dstack_vpn.adapters.store.lock import claim_interface, holder, is_locked
from dstack_vpn.config import Settings
from dstack_vpn.core.access.addressing import unique_local_prefix
from dstack_vpn.core.exit_routing import RoutingFacts, exit_obstacles
from dstack_vpn.core.observe.check import Check, failed, passed, warned
from dstack_vpn.core.ownership import Claim, Host, Identity, Obstacle, in_the_way, within
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import DeviceError, InTheWayError
from dstack_vpn.wiring.rpc import contacts

_log = structlog.get_logger(component="node")

NAMES: Final = 0.5
"""The limit, in seconds, for the names of RPC hosts to resolve at the start."""


def claim_of(settings: Settings, *, make: bool = False) -> Claim:
    """Return the node's claims on the host; with ``make``, create a missing instance name."""
    keys = set() if settings.wireguard_private_key is None else {derive(settings.wireguard_private_key)}
    own = next(iter(keys), None)
    if settings.key_file is not None:
        keys |= FileKeyRing(settings.key_file).others().keys()
    name = (instance.read_or_make if make else instance.read)(settings.state_dir)
    ipv6 = unique_local_prefix(settings.chain_id, settings.contract_address)
    prefixes = (str(settings.vpn_cidr), str(ipv6))
    return Claim(settings.interface, prefixes, Identity(name, frozenset(keys), own))


async def look(settings: Settings, claim: Claim) -> Host:
    """Survey the host; raises `DeviceError` if the kernel does not reply."""
    found, hosts = await asyncio.gather(survey(claim, settings.backend), _hosts(settings, claim))
    archive = FileArchive(settings.wireguard_config, settings.state_dir)
    foreign = str(settings.wireguard_config) if archive.is_foreign() else None
    return replace(found, hosts=tuple(hosts), config=foreign)


@asynccontextmanager
async def taken(settings: Settings) -> AsyncIterator[Claim]:
    """Claim the interface's name, and check for conflicts; raises `InTheWayError`."""
    claim = claim_of(settings, make=True)
    with ExitStack() as stack:
        held = claim_interface(settings.interface)
        host, routing = await _look_or_not(settings, claim)
        if held is not None:
            stack.enter_context(held)
        else:
            host = replace(host, holder=holder(settings.interface))
        if found := [*in_the_way(host, claim), *_exit_obstacles(host, claim, routing)]:
            raise InTheWayError([str(obstacle) for obstacle in found])
        yield claim


async def check(settings: Settings) -> Check:
    """Check for ``doctor``; a running daemon of the same state directory is not a conflict."""
    claim = claim_of(settings)
    try:
        host, routing = await look(settings, claim), await _routing(settings)
    except DeviceError as error:
        return warned("host", str(error), "run as root")
    if not is_locked(settings.state_dir):
        host = replace(host, holder=holder(settings.interface))
    found = [*in_the_way(host, claim), *_exit_obstacles(host, claim, routing)]
    if not found:
        return passed("host", f"no other program conflicts with {settings.interface} and its networks")
    remedies = dict.fromkeys(obstacle.remedy for obstacle in found)
    return failed("host", "; ".join(obstacle.what for obstacle in found), "; ".join(remedies))


async def _routing(settings: Settings) -> RoutingFacts | None:
    """Return the host's policy routing; None without EXIT_NODE. Raises `DeviceError`."""
    if not settings.exit_node:
        return None
    interface = Interface(settings.interface)
    try:
        return await interface.routing_facts()
    finally:
        await interface.close()


def _exit_obstacles(host: Host, claim: Claim, routing: RoutingFacts | None) -> Iterator[Obstacle]:
    if routing is not None:
        link = host.link
        proven = link is not None and claim.identity.proof(link, host.device) is not None
        yield from exit_obstacles(routing, claim.interface, link.index if link is not None and proven else 0)


async def _look_or_not(settings: Settings, claim: Claim) -> tuple[Host, RoutingFacts | None]:
    try:
        return await look(settings, claim), await _routing(settings)
    except DeviceError as error:
        # A missing feature does not end the node here; the link checks again when it is started.
        _log.warning("node.unsurveyed", problem=str(error))
        return Host(), None


async def _hosts(settings: Settings, claim: Claim) -> list[tuple[str, str]]:
    """Return the hosts that must be reached outside of the tunnel but are within its prefixes."""
    rpc = contacts(settings)
    found = await asyncio.gather(*map(_resolved, rpc.values()))
    known = [(f"the RPC host {shown}", address) for shown, address in zip(rpc, found, strict=True)]
    known += [(f"the endpoint of {node} in PEER_ENDPOINTS", host) for node, host in _endpoints(settings)]
    return [(name, address) for name, address in known if within(address, claim.prefixes) is not None]


def _endpoints(settings: Settings) -> Iterator[tuple[str, str]]:
    for node, peer_endpoint in settings.peer_endpoints.items():
        if peer_endpoint.udp is not None:
            yield node, peer_endpoint.udp.host
        yield from ((node, upstream.host) for upstream in peer_endpoint.relays)


async def _resolved(host: str) -> str:
    """Return the host's address, or the host itself if it is one or does not resolve in time."""
    if ":" in host or not host.strip("0123456789."):
        return host
    try:
        async with asyncio.timeout(NAMES):
            address = await SystemResolver().resolve(host, 443)
    except TimeoutError:
        return host
    return host if address is None else address.host
