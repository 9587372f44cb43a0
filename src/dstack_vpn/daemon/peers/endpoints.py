"""Host names of peers' endpoints, resolved aside from everything else.

Nothing ever waits for a name: the membership asks `by_udp`, which answers from what is known, and peers whose
name is resolved later, or differently, are updated then.

Members choose these names, and a name can be made never to resolve. So each peer has one name, and the one
before it is forgotten. A peer has at most `PER_PEER` lookups under way, superseded ones included. Peers whose
lookups fail share half of the room, come after all others, and wait longer after each failure.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from dstack_vpn.core.model import DeviceState, Endpoint, PeerState, SocketAddress
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.core.wireguard.wire import SESSION_LIFE
from dstack_vpn.ports import Clock, Resolver

_log = structlog.get_logger(component="endpoints")

REFRESH: Final = 300.0
"""Seconds until a name that resolved is asked for again."""
RETRY: Final = 15.0
"""Seconds until a name that did not is, twice as long each time up to `REFRESH`."""
PARALLEL: Final = 32
"""Lookups under way at once; half of them at most for peers whose lookups fail."""
PER_PEER: Final = 2
"""Lookups under way for a peer: a corrected name need not wait for the wrong one."""
UNUSED: Final = 3600.0
"""Seconds after which it is asked whether a name that nobody looked up is still in use."""
FORGIVEN: Final = 8192
"""Peers whose failures are remembered; with more, those of peers without a name are forgotten."""
TICK: Final = 1.0
"""Seconds between looks at which names are due."""


@dataclass(slots=True, eq=False)
class _Name:
    asked: float
    """When it was first asked for (monotonic seconds)."""
    address: SocketAddress | None = None
    due: float = 0.0
    used: float = 0.0
    keys: set[PublicKey] = field(default_factory=set)
    """The peers that are reached by it."""
    running: bool = False


@dataclass(frozen=True, slots=True)
class _Lookup:
    endpoint: Endpoint
    name: _Name
    asking: tuple[PublicKey, ...]
    """The peers whose room it takes."""
    failing: bool
    """Whether lookups for them have failed."""


@dataclass(slots=True)
class EndpointBook:
    """What the peers' host names resolve to."""

    resolver: Resolver
    clock: Clock
    _names: dict[Endpoint, _Name] = field(default_factory=dict)
    _wanted: dict[PublicKey, Endpoint] = field(default_factory=dict)
    """Each peer's name."""
    _failures: dict[PublicKey, int] = field(default_factory=dict)
    """How often the lookups for a peer have failed in a row, of whichever name."""
    _busy: Counter[PublicKey] = field(default_factory=Counter)
    """How many lookups are under way for a peer."""
    _running: int = 0
    _failing: int = 0
    """Of the lookups under way, those for peers whose lookups fail."""
    _work: asyncio.Event = field(default_factory=asyncio.Event)

    def by_udp(self, key: PublicKey, peer_endpoint: PeerEndpoint) -> SocketAddress | None:
        """A peer's own UDP address, as far as it has one and it is known; a name is resolved soon."""
        if peer_endpoint.udp is None or peer_endpoint.udp.address is not None:
            self._leave(key)
            return None if peer_endpoint.udp is None else peer_endpoint.udp.address
        return self._lookup(key, peer_endpoint.udp)

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
        """Forget the names that no peer has any more; ``in_use`` returns which of some names still are."""
        now = self.clock.monotonic()
        idle = {endpoint for endpoint, name in self._names.items() if now - name.used > UNUSED}
        if not idle:
            return
        kept = in_use(idle)
        for endpoint in idle:
            if endpoint in kept:
                self._names[endpoint].used = now
            else:
                for key in tuple(self._names[endpoint].keys):
                    self._leave(key)

    async def resolve_due(self) -> list[Endpoint]:
        """Resolve what is due; returns the names whose address has changed."""
        changed: list[Endpoint] = []
        async with asyncio.TaskGroup() as group:
            while self._begin(group, changed.extend) or self._running:
                await self.wait(TICK)
        return changed

    async def run(
        self,
        resolved: Callable[[Iterable[Endpoint]], None],
        in_use: Callable[[Collection[Endpoint]], Collection[Endpoint]],
    ) -> None:
        """Resolve names when they are due; ``resolved`` gets each name whose address has changed."""
        async with asyncio.TaskGroup() as group:
            while True:
                self.forget_unused(in_use)
                self._begin(group, resolved)
                await self.wait(TICK)

    async def wait(self, at_most: float) -> None:
        """Wait until there may be something to resolve."""
        try:
            await asyncio.wait_for(self._work.wait(), at_most)
        except TimeoutError:
            return
        self._work.clear()

    # -- peers and their names ------------------------------------------------------------------------

    def _lookup(self, key: PublicKey, endpoint: Endpoint) -> SocketAddress | None:
        now = self.clock.monotonic()
        if self._wanted.get(key) != endpoint:
            self._leave(key)
            self._wanted[key] = endpoint
            self._work.set()
        name = self._names.setdefault(endpoint, _Name(now))
        name.keys.add(key)
        name.used = now
        return name.address

    def _leave(self, key: PublicKey) -> None:
        """The peer has another name, or none."""
        endpoint = self._wanted.pop(key, None)
        if endpoint is None:
            return
        name = self._names[endpoint]
        name.keys.discard(key)
        if not name.keys:
            del self._names[endpoint]
        if len(self._failures) > FORGIVEN:
            self._failures = {k: n for k, n in self._failures.items() if k in self._wanted}

    # -- lookups --------------------------------------------------------------------------------------

    def _begin(self, group: asyncio.TaskGroup, resolved: Callable[[Iterable[Endpoint]], None]) -> int:
        """Begin the lookups for which there is room; returns how many."""
        begun = 0
        for failures, endpoint in self._due():
            if self._running >= PARALLEL:
                break
            name = self._names[endpoint]
            free = [key for key in name.keys if self._busy[key] < PER_PEER]
            if not free or (failures and self._failing >= PARALLEL // 2):
                continue
            lookup = _Lookup(endpoint, name, tuple(free), failures > 0)
            group.create_task(self._resolve(lookup, resolved), name=f"name {endpoint.host}")
            name.running, begun = True, begun + 1
            self._busy.update(free)
            self._running += 1
            self._failing += lookup.failing
        return begun

    def _due(self) -> list[tuple[int, Endpoint]]:
        """The names to look up and how often that has failed: fewest failures first, then the newest."""
        now = self.clock.monotonic()
        due = [
            (min(self._failures.get(key, 0) for key in name.keys), -name.asked, endpoint)
            for endpoint, name in self._names.items()
            if name.due <= now and not name.running
        ]
        return [(failures, endpoint) for failures, _, endpoint in sorted(due, key=lambda each: each[:2])]

    async def _resolve(self, lookup: _Lookup, resolved: Callable[[Iterable[Endpoint]], None]) -> None:
        endpoint, name = lookup.endpoint, lookup.name
        try:
            address = await self.resolver.resolve(endpoint.host, endpoint.port)
        finally:
            name.running = False
            self._running -= 1
            self._failing -= lookup.failing
            self._busy.subtract(lookup.asking)
            self._busy = +self._busy
            self._work.set()
        self._count(lookup.asking, address)
        if self._names.get(endpoint) is name and self._learn(endpoint, name, address):
            resolved([endpoint])

    def _count(self, asking: Iterable[PublicKey], address: SocketAddress | None) -> None:
        for key in asking:
            if address is None:
                self._failures[key] = self._failures.get(key, 0) + 1
            else:
                self._failures.pop(key, None)

    def _learn(self, endpoint: Endpoint, name: _Name, address: SocketAddress | None) -> bool:
        now = self.clock.monotonic()
        if address is None:
            # The old address, if there was one, is still the best guess.
            times = min(self._failures.get(key, 0) for key in name.keys)
            name.due = now + min(RETRY * 2 ** max(min(times, 10) - 1, 0), REFRESH)
            _log.warning("endpoint.unresolved", host=endpoint.host)
            return False
        name.due = now + REFRESH
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
