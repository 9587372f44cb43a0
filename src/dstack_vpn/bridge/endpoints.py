"""Host names of peers' endpoints, resolved aside from everything else.

Nobody ever waits for a name: the membership asks `lookup`, which answers from what is known, and peers
whose name is resolved later, or anew, are updated then.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from dstack_vpn.core.keys import PublicKey
from dstack_vpn.core.model import DeviceState, Endpoint, PeerState, SocketAddress
from dstack_vpn.core.reach import Reach
from dstack_vpn.core.wgwire import SESSION_LIFE
from dstack_vpn.ports import Clock, Resolver

_log = structlog.get_logger(component="endpoints")

REFRESH: Final = 300.0
"""Seconds until a name that resolved is asked for again."""
RETRY: Final = 15.0
"""Seconds until a name that did not is."""
PARALLEL: Final = 16
"""Queries under way at once."""
UNUSED: Final = 3600.0
"""Seconds after which it is asked whether a name that nobody looked up is still in use."""


@dataclass(slots=True)
class _Name:
    address: SocketAddress | None = None
    due: float = 0.0
    used: float = 0.0


@dataclass(slots=True)
class EndpointBook:
    """What the peers' host names resolve to."""

    resolver: Resolver
    clock: Clock
    _names: dict[Endpoint, _Name] = field(default_factory=dict)
    _work: asyncio.Event = field(default_factory=asyncio.Event)

    def lookup(self, endpoint: Endpoint) -> SocketAddress | None:
        """The address as far as it is known; asking makes it be resolved soon."""
        name = self._names.get(endpoint)
        if name is None:
            name = self._names[endpoint] = _Name()
            self._work.set()
        name.used = self.clock.monotonic()
        return name.address

    def by_udp(self, key: PublicKey, reach: Reach) -> SocketAddress | None:
        """A peer's own UDP address, as far as it has one and it is known."""
        del key  # any peer's is looked up in the same way
        return None if reach.udp is None else reach.udp.address or self.lookup(reach.udp)

    @property
    def in_use(self) -> bool:
        """Whether any peer is reached by a name."""
        return bool(self._names)

    def refresh(self, endpoints: Iterable[Endpoint]) -> None:
        """Ask for these names again now: nothing came from where they pointed to."""
        for endpoint in endpoints:
            if name := self._names.get(endpoint):
                name.due = 0.0
                self._work.set()

    def forget_unused(self, in_use: Callable[[Collection[Endpoint]], Collection[Endpoint]]) -> None:
        """Forget the names that no peer has any more; ``in_use`` tells which of some names still are."""
        now = self.clock.monotonic()
        idle = {endpoint for endpoint, name in self._names.items() if now - name.used > UNUSED}
        if not idle:
            return
        kept = in_use(idle)
        for endpoint in idle:
            if endpoint in kept:
                self._names[endpoint].used = now
            else:
                del self._names[endpoint]

    async def resolve_due(self) -> list[Endpoint]:
        """Resolve what is due; returns the names whose address has changed."""
        now = self.clock.monotonic()
        due = [endpoint for endpoint, name in self._names.items() if name.due <= now]
        limit = asyncio.Semaphore(PARALLEL)

        async def resolve(endpoint: Endpoint) -> bool:
            async with limit:
                address = await self.resolver.resolve(endpoint.host, endpoint.port)
            return self._learn(endpoint, address)

        async with asyncio.TaskGroup() as group:
            tasks = {endpoint: group.create_task(resolve(endpoint)) for endpoint in due}
        return [endpoint for endpoint, task in tasks.items() if task.result()]

    async def wait(self, at_most: float) -> None:
        """Wait until there may be something to resolve."""
        try:
            await asyncio.wait_for(self._work.wait(), at_most)
        except TimeoutError:
            return
        self._work.clear()

    def _learn(self, endpoint: Endpoint, address: SocketAddress | None) -> bool:
        name = self._names.get(endpoint)
        if name is None:
            return False
        now = self.clock.monotonic()
        name.due = now + (RETRY if address is None else REFRESH)
        if address is None:
            # The old address, if there was one, is still the best guess.
            _log.warning("endpoint.unresolved", host=endpoint.host)
            return False
        changed, name.address = address != name.address, address
        return changed


def overdue(state: DeviceState, before: Mapping[PublicKey, PeerState], now: float) -> set[PublicKey]:
    """Peers that we send to and that have not completed a handshake for longer than a session lives."""
    return {
        key
        for key, peer in state.peers.items()
        if (old := before.get(key)) is not None
        and peer.tx_bytes > old.tx_bytes
        and now - peer.last_handshake > SESSION_LIFE
    }
