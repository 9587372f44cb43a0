"""The facts on which the use of networks behind other nodes depends: the host, and the gateways.

The host is surveyed at the start, with every comparison of its routes, and when a network or an
endpoint is new. A gateway that stops answering is found by echoes, which are sent only if a network
has several gateways. If the policies permit no echo, `Answers` finds it by the bytes of peers.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from dstack_vpn.core.access.roles import Standing
from dstack_vpn.core.model import Cidr, TokenId
from dstack_vpn.core.paths.routes import Surroundings
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.device.tunnel import Tunnel
from dstack_vpn.daemon.observe.roles import RoleWatch
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.daemon.peers.paths import Paths
from dstack_vpn.errors import DeviceError
from dstack_vpn.ports import Resolver

TICK: Final = 0.1
"""Seconds between checks of gateways, while a network has several."""
IDLE: Final = 1.0
"""Seconds between checks for news otherwise."""
PATIENCE: Final = 1.0
"""The limit, in seconds, for which the first survey waits for the names of needed machines."""
REFRESH: Final = 300.0
"""Seconds until the names of needed machines are resolved again."""

Needed: TypeAlias = Callable[[], Sequence[tuple[str, str]]]
"""Returns the machines that this node must reach outside of the tunnel: what each is, and its
host."""


@dataclass(slots=True)
class RouteKeeper:
    """Keeps the facts of `Routes` current."""

    members: Members
    tunnel: Tunnel
    roles: RoleWatch
    paths: Paths
    resolver: Resolver
    needed: Needed
    _addresses: dict[str, str] = field(default_factory=dict, init=False)
    """The last known address of each needed host name."""
    _adopted: bool = field(default=False, init=False)

    async def run(self) -> None:
        """Keep the facts current until cancelled. Absorbs device errors: it surveys again."""
        routes = self.members.routes
        if not routes.accept:
            await asyncio.Event().wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_resolved())
            while True:
                await self.tunnel.up.wait()
                if routes.wanted.is_set():
                    await self._try_survey()
                self._judge()
                with suppress(TimeoutError):
                    await asyncio.wait_for(routes.wanted.wait(), TICK if routes.contested() else IDLE)

    async def survey(self) -> None:
        """Read the host's routes and addresses, and decide again. Raises `DeviceError`."""
        routes = self.members.routes
        if not routes.accept:
            return
        if not self._adopted:
            await self._adopt()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._resolve(), PATIENCE)
        routes.wanted.clear()
        accepted = routes.accepted
        host = await self.tunnel.link.survey(accepted)
        prefixes = tuple(map(str, self.members.addresses.networks))
        needed = tuple(self._needed())
        around = Surroundings(self.tunnel.name, prefixes, host.index, host.routes, host.addresses, needed)
        routes.surveyed(around, accepted)
        self.members.follow_routes()

    async def _try_survey(self) -> None:
        try:
            await self.survey()
        except DeviceError:
            await asyncio.sleep(IDLE)
            self.members.routes.wanted.set()

    # -- gateways ----------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Decide again about the gateways by their answers."""
        routes = self.members.routes
        contested = routes.contested()
        keys = {token: routes.offers[token].key for token in contested if token in routes.offers}
        self.roles.watch(frozenset(keys.values()))
        if contested and routes.has_to_move({token: self._standing(token) for token in keys}):
            self.members.follow_routes()

    def _standing(self, token: TokenId) -> Standing:
        routes = self.members.routes
        key = routes.offers[token].key
        standing = self.roles.standing(key)
        idle = standing is Standing.UNJUDGED and not self.roles.is_measured(key)
        if idle and token in routes.choice.used.values():
            return Standing.ALIVE  # nothing is sent to it, so nothing can be expected
        return standing

    async def _adopt(self) -> None:
        """Begin with the gateways that the device has from an earlier process."""
        state = await self.tunnel.device.read()
        registry, used = self.members.follower.registry, dict[Cidr, TokenId]()
        for key, peer in state.peers.items():
            for token in registry.with_key(key):
                used |= dict.fromkeys(peer.allowed_ips, token)
        self.members.routes.adopt(used)
        self._adopted = True

    # -- the machines that the node needs ----------------------------------------------------------

    def _needed(self) -> Iterator[tuple[str, str]]:
        """Yield the addresses that must stay outside of the tunnel, with what each belongs to."""
        for what, host in self._hosts():
            yield what, self._addresses.get(host, host)
        peers, seen = self.members.membership.peers, self.roles.peer_stats.peers
        for key in {*peers, *seen}:
            for peer in (peers.get(key), seen.get(key)):
                if peer is not None and peer.endpoint is not None and not peer.endpoint.is_loopback:
                    yield f"the endpoint of {self._name(key)}", peer.endpoint.host

    def _hosts(self) -> Iterator[tuple[str, str]]:
        yield from self.needed()
        for key, path in list(self.paths.peers.items()):
            for relay in path.peer_endpoint.relays:
                yield f"the relay of {self._name(key)}", relay.host

    def _name(self, key: PublicKey) -> str:
        token, node_id = self.members.named(key)
        return node_id or f"token {token}"

    async def _keep_resolved(self) -> None:
        """Resolve the names again from time to time; the first survey has done so once."""
        while True:
            await self.tunnel.up.wait()
            await self._resolve()
            with suppress(DeviceError):
                await self.survey()
            await asyncio.sleep(REFRESH)

    async def _resolve(self) -> None:
        hosts = {host for _, host in self._hosts()}
        found = await asyncio.gather(*map(self._resolved, hosts))
        self._addresses = {host: address for host, address in found if address is not None}

    async def _resolved(self, host: str) -> tuple[str, str | None]:
        found = await self.resolver.resolve(host, 443)
        return host, self._addresses.get(host) if found is None else found.host
