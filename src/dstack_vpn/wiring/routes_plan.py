"""The networks behind other nodes that a daemon would use now, for `plan`."""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dstack_vpn.adapters.admin.device import host_routes
from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.adapters.resolver import SystemResolver
from dstack_vpn.config import Settings
from dstack_vpn.core.access.control import AccessControl
from dstack_vpn.core.access.membership import Membership
from dstack_vpn.core.model import DeviceState
from dstack_vpn.core.paths.routes import Surroundings
from dstack_vpn.daemon.peers.routes import Routes
from dstack_vpn.wiring.policy_plan import reaching, selected
from dstack_vpn.wiring.rpc import needed_machines

if TYPE_CHECKING:
    from dstack_vpn.wiring.policy import RegistryPolicy


async def use_networks(
    settings: Settings,
    access: AccessControl,
    registry: "RegistryPolicy",
    membership: Membership,
    *,
    device: DeviceState | None,
    now: float,
) -> Routes:
    """Let networks lead to the peers of their gateways, as a daemon does that has just started.

    It can't know which gateways are alive. A network keeps the gateway that the device has. ``now``
    is in Unix seconds. Raises `DeviceError`.
    """
    routes = Routes(settings.accept_routes, SystemClock(), lambda event: None, lambda: None)
    if not settings.accept_routes:
        return routes
    in_force = selected(settings, access, registry, now).in_force
    own = access.decide(access.own_key, now).node
    subject = None if own is None else access.subject(own)
    permits = reaching(in_force, access.registry.contract.tag_names, subject)
    peers = {} if device is None else device.peers
    found = ((key, ip) for key, peer in peers.items() for ip in peer.allowed_ips)
    routes.adopt({ip: token for key, ip in found for token in access.registry.with_key(key)})
    # The first time, it only notes which networks are behind which nodes.
    routes.follow(access, access.registry.nodes, permits, now, known=True)
    host = await host_routes(settings.interface, routes.accepted)
    needed = [*await _machines(settings), *_endpoints(membership, device)]
    prefixes = tuple(map(str, access.addresses.networks))
    around = Surroundings(settings.interface, prefixes, host.index, host.routes, host.addresses, needed)
    routes.surveyed(around, routes.accepted)
    membership.move_networks(routes.follow(access, (), permits, now, known=True))
    membership.rebuild(access, now)
    return routes


async def _machines(settings: Settings) -> list[tuple[str, str]]:
    machines = needed_machines(settings)
    found = await asyncio.gather(*(SystemResolver().resolve(host, 443) for _, host in machines))
    return [
        (what, host if address is None else address.host)
        for (what, host), address in zip(machines, found, strict=True)
    ]


def _endpoints(membership: Membership, device: DeviceState | None) -> Iterator[tuple[str, str]]:
    for peer in (*membership.peers.values(), *(() if device is None else device.peers.values())):
        if peer.endpoint is not None and not peer.endpoint.is_loopback:
            token = membership.tokens.get(peer.public_key)
            yield f"the endpoint of token {token}", peer.endpoint.host
