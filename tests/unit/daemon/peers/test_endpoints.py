"""Host names of peers: one member's names that never resolve do not delay another member's."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
from tests.scripted import key
from tests.unit.daemon.conftest import eventually

from dstack_vpn.core.model import Endpoint, SocketAddress
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.peers import endpoints
from dstack_vpn.daemon.peers.endpoints import PARALLEL, PER_PEER, EndpointBook

ADDRESS = "192.0.2.7"
HONEST = PeerEndpoint.parse("honest.example:51820")


@dataclass
class SlowResolver:
    """A resolver that answers honest names at once, and others only at `deadline`."""

    under_way: Counter[str] = field(default_factory=Counter)
    asked: list[str] = field(default_factory=list)
    most: int = 0
    given_up: asyncio.Event = field(default_factory=asyncio.Event)

    async def resolve(self, host: str, port: int) -> SocketAddress | None:
        self.asked.append(host)
        if "honest" in host:
            await asyncio.sleep(0)
            return SocketAddress(ADDRESS, port)
        self.under_way[host] += 1
        self.most = max(self.most, self.under_way.total())
        try:
            await self.given_up.wait()
        finally:
            self.under_way[host] -= 1
        return None

    def deadline(self) -> None:
        """End every lookup under way without an answer."""
        self.given_up.set()
        self.given_up = asyncio.Event()


@dataclass
class ManualClock:
    at: float = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


@dataclass
class Names:
    book: EndpointBook
    resolver: SlowResolver
    clock: ManualClock
    resolved: list[Endpoint]

    def set_endpoint(self, peer: PublicKey, name: str) -> None:
        assert self.book.by_udp(peer, PeerEndpoint.parse(f"{name}:51820")) is None


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Names]:
    monkeypatch.setattr(endpoints, "TICK", 0.005)
    async with running() as found:
        yield found


@asynccontextmanager
async def running() -> AsyncIterator[Names]:
    clock, resolver, resolved = ManualClock(), SlowResolver(), list[Endpoint]()
    book = EndpointBook(resolver, clock)
    take: Callable[[Iterable[Endpoint]], None] = resolved.extend
    async with asyncio.TaskGroup() as group:
        task = group.create_task(book.run(take, lambda idle: idle))
        yield Names(book, resolver, clock, resolved)
        # In Python 3.11, a wait that times out at that moment loses the cancellation: repeat it.
        while not task.done():
            task.cancel()
            await asyncio.sleep(0.001)


async def known(names: Names, peer: PublicKey, peer_endpoint: PeerEndpoint = HONEST) -> None:
    await eventually(lambda: names.book.by_udp(peer, peer_endpoint) == SocketAddress(ADDRESS, 51820))


async def test_two_hundred_names_of_one_member_take_the_room_of_two(names: Names) -> None:
    for number in range(200):
        names.set_endpoint(key(1), f"dead-{number}.example")
        await asyncio.sleep(0)
    await eventually(lambda: names.resolver.most == PER_PEER)
    await known(names, key(2))
    assert names.resolver.most == PER_PEER
    assert len(names.book._names) == 2, "superseded names are forgotten"
    asked = len(names.resolver.asked)
    names.resolver.deadline()
    await eventually(lambda: len(names.resolver.asked) > asked)
    assert names.resolver.asked[asked] == "dead-199.example", "the newest, and none of those between"


async def test_a_new_name_is_the_next_one_however_many_members_have_names_that_never_resolve(
    names: Names,
) -> None:
    for number in range(2, 202):
        names.set_endpoint(key(number), f"dead-{number}.example")
    await eventually(lambda: names.resolver.most == PARALLEL)
    names.clock.at += 1
    assert names.book.by_udp(key(1), HONEST) is None
    names.resolver.deadline()
    await known(names, key(1))
    assert names.resolver.asked.count("honest.example") == 1
    assert names.resolver.most <= PARALLEL


async def test_members_whose_names_fail_take_half_of_the_room_under_new_names_as_well(names: Names) -> None:
    hostile = [key(number) for number in range(2, 102)]
    for number, peer in enumerate(hostile):
        names.set_endpoint(peer, f"dead-{number}.example")

    def all_failed() -> bool:
        names.resolver.deadline()
        return len(names.book._failures) == len(hostile)

    await eventually(all_failed)
    names.resolver.most = 0
    for number, peer in enumerate(hostile):
        names.set_endpoint(peer, f"dead-again-{number}.example")
    await eventually(lambda: names.resolver.under_way.total() == PARALLEL // 2)
    await known(names, key(1))
    assert names.resolver.most == PARALLEL // 2


def has_failed(names: Names, times: int) -> bool:
    """Return True if the first member's names have failed this many times."""
    return names.book._failures.get(key(1)) == times


async def test_a_name_that_fails_is_asked_for_less_and_less_often(names: Names) -> None:
    names.set_endpoint(key(1), "dead.example")
    pauses = []
    for count in range(1, 8):
        await eventually(lambda: names.resolver.under_way["dead.example"] == 1)
        names.resolver.deadline()
        await eventually(partial(has_failed, names, count))
        (name,) = names.book._names.values()
        pauses.append(name.due - names.clock.at)
        names.clock.at = name.due
    assert pauses == [15, 30, 60, 120, 240, 300, 300]


async def test_a_name_that_two_peers_share_is_kept_while_either_has_it(names: Names) -> None:
    await known(names, key(1))
    await known(names, key(2))
    names.set_endpoint(key(1), "dead.example")
    assert names.book.by_udp(key(2), HONEST) is not None
    names.book.by_udp(key(2), PeerEndpoint.parse("192.0.2.1:1"))
    assert [endpoint.host for endpoint in names.book._names] == ["dead.example"]
