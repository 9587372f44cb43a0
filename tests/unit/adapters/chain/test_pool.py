"""The pool with fake sessions and a virtual clock."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest

from dstack_vpn.adapters.chain.identity import Target
from dstack_vpn.adapters.chain.memory import EndpointCapabilities
from dstack_vpn.adapters.chain.pool import LONGEST_QUARANTINE, QUARANTINE, WRONG_CHAIN_PAUSE, RpcPool
from dstack_vpn.adapters.chain.session import SessionSettings
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.core.model import ChainIdentity
from dstack_vpn.errors import ChainError, EndpointError, FormatError, RetryError, StoreError, WrongChainError
from dstack_vpn.ports import ChainSession

CONTRACT = "0x" + "ab" * 20
A, B, C = "https://a.example", "https://b.example", "https://c.example"


@dataclass
class FakeSession:
    name: str
    identity: ChainIdentity = field(default_factory=lambda: ChainIdentity(1, "0x", CONTRACT))


@dataclass
class World:
    """Endpoints with scripted failures, and a virtual clock."""

    refuses: dict[str, ChainError] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)
    now: float = 1000.0
    draw: float = 0.5

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    @asynccontextmanager
    async def open(
        self, url: RpcUrl, target: Target, memory: EndpointCapabilities, settings: SessionSettings
    ) -> AsyncIterator[ChainSession]:
        self.opened.append(url.name)
        if url.name in self.refuses:
            raise self.refuses[url.name]
        yield cast("ChainSession", FakeSession(url.name))

    def pool(self, *urls: str) -> RpcPool:
        return RpcPool(
            urls,
            CONTRACT,
            monotonic=lambda: self.now,
            draw=lambda: self.draw,
            sleep=self.sleep,
            open_=self.open,
        )


async def name_of(pool: RpcPool) -> str:
    async with pool.session() as session:
        return session.name


async def fail(pool: RpcPool, error: Exception, after: float = 0.0, world: World | None = None) -> None:
    with pytest.raises(type(error)):
        async with pool.session():
            if world is not None:
                world.now += after
            raise error


async def test_the_first_endpoint_is_preferred() -> None:
    world = World()
    pool = world.pool(A, B)
    assert [await name_of(pool) for _ in range(3)] == [A, A, A]
    assert world.now == 1000.0


async def test_a_failure_moves_on_at_once_and_comes_back_after_the_pause() -> None:
    world = World()
    pool = world.pool(A, B)
    await fail(pool, EndpointError("gone"))
    assert await name_of(pool) == B
    assert world.now == 1000.0
    world.now += 0.1
    assert await name_of(pool) == A


async def test_an_endpoint_that_cannot_be_opened_counts_as_failed() -> None:
    world = World(refuses={A: EndpointError("refused")})
    pool = world.pool(A, B)
    with pytest.raises(EndpointError, match="refused"):
        await name_of(pool)
    assert await name_of(pool) == B


async def test_a_single_endpoint_is_waited_for_ever_longer_up_to_the_cap() -> None:
    world = World(refuses={A: EndpointError("refused")})
    pool = world.pool(A)
    pauses = []
    for _ in range(12):
        before = world.now
        with pytest.raises(EndpointError):
            await name_of(pool)
        pauses.append(round(world.now - before, 3))
    assert pauses[:5] == [0, 0.1, 0.2, 0.4, 0.8]
    assert pauses[-1] == 7.5


async def test_when_all_are_left_alone_the_earliest_is_next() -> None:
    world = World()
    pool = world.pool(A, B)
    world.draw = 0.9
    await fail(pool, EndpointError("gone"))
    world.draw = 0.1
    await fail(pool, EndpointError("gone"))
    assert await name_of(pool) == B


async def test_good_service_forgives_earlier_failures() -> None:
    world = World()
    pool = world.pool(A)
    for _ in range(6):
        await fail(pool, EndpointError("gone"))
    await fail(pool, EndpointError("gone"), after=10.0, world=world)
    before = world.now
    await name_of(pool)
    assert world.now - before == pytest.approx(0.1)


async def test_an_endpoints_wish_is_honoured() -> None:
    world = World()
    pool = world.pool(A, B)
    await fail(pool, RetryError("slow down", retry_after=30.0))
    world.now += 29
    assert await name_of(pool) == B
    world.now += 1
    assert await name_of(pool) == A


async def test_the_wrong_chain_is_left_for_longer_and_the_others_serve() -> None:
    world = World(refuses={A: WrongChainError("chain 5")})
    pool = world.pool(A, B)
    with pytest.raises(WrongChainError):
        await name_of(pool)
    world.now += WRONG_CHAIN_PAUSE - 1
    assert await name_of(pool) == B
    world.now += 1
    world.refuses.clear()
    assert await name_of(pool) == A


async def test_what_is_not_the_chains_fault_is_not_held_against_the_endpoint() -> None:
    world = World()
    pool = world.pool(A, B)
    await fail(pool, StoreError("disk full"))
    assert await name_of(pool) == A


async def test_a_second_opinion_comes_from_another_endpoint() -> None:
    world = World()
    pool = world.pool(A, B, C)
    async with pool.session() as first, pool.other(than=first.name) as second:
        assert (first.name, second.name) == (A, B)
    async with pool.other(than=B) as other:
        assert other.name == A


async def test_a_second_opinion_skips_endpoints_that_fail_and_ends_with_the_same_one() -> None:
    world = World(refuses={B: EndpointError("gone")})
    pool = world.pool(A, B)
    with pytest.raises(EndpointError):
        async with pool.other(than=A):
            pass
    async with pool.session() as first, pool.other(than=first.name) as second:
        assert (first.name, second.name) == (A, A)
    assert world.opened == [B, A, A]


async def test_a_second_opinion_without_another_endpoint_is_a_connection_of_its_own() -> None:
    world = World()
    pool = world.pool(A)
    async with pool.session(), pool.other(than=A) as second:
        assert second.name == A
    assert world.opened == [A, A]


async def test_witnesses_are_of_other_hosts_and_in_no_quarantine() -> None:
    world = World()
    pool = world.pool(A, "wss://a.example/key", B, "wss://b.example", "https://b.example:8443", C)
    assert pool.others(than=A) == [B, C]
    assert pool.others(than="wss://b.example") == [A, C]
    pool.quarantine("wss://b.example", "it lies")
    assert pool.others(than=A) == [C]
    assert set(pool.quarantined()) == {B, "wss://b.example", "https://b.example:8443"}, "the host lies"
    async with pool.to(C) as session:
        assert session.name == C


async def test_quarantine_is_twice_as_long_each_time_and_then_forgotten() -> None:
    world = World()
    pool = world.pool(A, B)
    for pause in (QUARANTINE, 2 * QUARANTINE, 4 * QUARANTINE):
        pool.quarantine(A, "it lies")
        assert pool.quarantined()[A].seconds_left == pause
        assert await name_of(pool) == B
        world.now += pause
        assert await name_of(pool) == A
    world.now += LONGEST_QUARANTINE
    pool.quarantine(A, "it lies again")
    assert pool.quarantined()[A].seconds_left == QUARANTINE
    assert (pool.quarantined()[A].times, pool.quarantined()[A].reason) == (4, "it lies again")


def test_a_pool_needs_endpoints() -> None:
    with pytest.raises(FormatError):
        RpcPool([], CONTRACT)
    with pytest.raises(FormatError):
        RpcPool(["gopher://old.example"], CONTRACT)
