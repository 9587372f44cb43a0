"""The host names of peers' endpoints, resolved in the background.

No caller waits for a name. The membership calls `by_udp`, which returns the known address. Peers
whose name resolves later, or to another address, are updated then.

Members choose these names, and a member can choose one that never resolves. So each peer has one
name; the previous one is forgotten. A peer has at most `PER_PEER` concurrent lookups, superseded
ones included. Peers whose lookups fail share half of the slots, come after all others, and wait
longer after each failure.
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
"""Seconds until a resolved name is resolved again."""
RETRY: Final = 15.0
"""Seconds until a failed lookup is repeated; doubled after each failure, up to `REFRESH`."""
PARALLEL: Final = 32
"""The limit of concurrent lookups; at most half of them are for peers whose lookups fail."""
PER_PEER: Final = 2
"""The limit of concurrent lookups for a peer: a corrected name does not wait for the wrong one."""
UNUSED: Final = 3600.0
"""Seconds without use after which a name is checked for peers that still have it."""
FORGIVEN: Final = 8192
"""The number of peers whose failures are kept; beyond it, those without a name are dropped."""
TICK: Final = 1.0
"""Seconds between checks for names that are due."""


@dataclass(slots=True, eq=False)
class _Name:
    asked: float
    """The time of the first request (monotonic seconds)."""
    address: SocketAddress | None = None
    due: float = 0.0
    used: float = 0.0
    keys: set[PublicKey] = field(default_factory=set)
    """The peers that have this name."""
    running: bool = False


@dataclass(frozen=True, slots=True)
class _Lookup:
    endpoint: Endpoint
    name: _Name
    asking: tuple[PublicKey, ...]
    """The peers whose slots it occupies."""
    failing: bool
    """Set if lookups for them have failed."""


@dataclass(slots=True)
class EndpointBook:
    """The addresses of the peers' host names."""

    resolver: Resolver
    clock: Clock
    _names: dict[Endpoint, _Name] = field(default_factory=dict)
    _wanted: dict[PublicKey, Endpoint] = field(default_factory=dict)
    """Each peer's name."""
    _failures: dict[PublicKey, int] = field(default_factory=dict)
    """The number of consecutive failed lookups for each peer, of any name."""
    _busy: Counter[PublicKey] = field(default_factory=Counter)
    """The number of running lookups for each peer."""
    _running: int = 0
    _failing: int = 0
    """The number of running lookups for peers whose lookups fail."""
    _work: asyncio.Event = field(default_factory=asyncio.Event)

    def by_udp(self, key: PublicKey, peer_endpoint: PeerEndpoint) -> SocketAddress | None:
        """Return a peer's own UDP address; None if it has none or its name is not resolved yet.

        A new name is resolved soon.
        """
        if peer_endpoint.udp is None or peer_endpoint.udp.address is not None:
            self._leave(key)
            return None if peer_endpoint.udp is None else peer_endpoint.udp.address
        return self._lookup(key, peer_endpoint.udp)

    @property
    def in_use(self) -> bool:
        """True if any peer has a host name."""
        return bool(self._names)

    def refresh(self, endpoints: Iterable[Endpoint]) -> None:
        """Resolve these names again now: no packet came from their addresses."""
        for endpoint in endpoints:
            if name := self._names.get(endpoint):
                name.due = 0.0
                self._work.set()

    def forget_unused(self, in_use: Callable[[Collection[Endpoint]], Collection[Endpoint]]) -> None:
        """Forget the names that no peer has any more; ``in_use`` returns those that are in use."""
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
        """Resolve the names that are due; return those whose address has changed."""
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
        """Resolve names when they are due; pass those with a changed address to ``resolved``."""
        async with asyncio.TaskGroup() as group:
            while True:
                self.forget_unused(in_use)
                self._begin(group, resolved)
                await self.wait(TICK)

    async def wait(self, at_most: float) -> None:
        """Wait until a name may be due, or for ``at_most`` seconds."""
        try:
            await asyncio.wait_for(self._work.wait(), at_most)
        except TimeoutError:
            return
        self._work.clear()

    # -- peers and their names ---------------------------------------------------------------------

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
        """Remove the peer's name: it has another one, or an address, or no endpoint."""
        endpoint = self._wanted.pop(key, None)
        if endpoint is None:
            return
        name = self._names[endpoint]
        name.keys.discard(key)
        if not name.keys:
            del self._names[endpoint]
        if len(self._failures) > FORGIVEN:
            self._failures = {k: n for k, n in self._failures.items() if k in self._wanted}

    # -- lookups -----------------------------------------------------------------------------------

    def _begin(self, group: asyncio.TaskGroup, resolved: Callable[[Iterable[Endpoint]], None]) -> int:
        """Begin the lookups for which there are slots; return their number."""
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
        """Return the names that are due and their failures: fewest failures first, then newest."""
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
    """Return the peers that we send to without a handshake within the life of a session."""
    return {
        key
        for key, peer in state.peers.items()
        if (old := before.get(key)) is not None
        and peer.tx_bytes > old.tx_bytes
        and now - peer.last_handshake > SESSION_LIFE
    }
