"""Logs and heads that arrive out of order, and endpoints that lag."""

import asyncio
from dataclasses import replace

from tests.scripted import ScriptedChain, ScriptedSource, grant

from dstack_vpn.core.chain.events import LoggedEvent, Revoked
from dstack_vpn.core.chain.follower import Follower
from dstack_vpn.core.chain.registry import Registry


def test_a_log_that_the_base_contains_is_not_applied_again() -> None:
    chain, follower = ScriptedChain(), Follower()
    _, granted, _ = chain.mine(grant(1), Revoked(1))
    follower.bootstrapped(chain.registry(), chain.head)
    assert follower.receive(granted) == []
    assert follower.registry == chain.registry()


def test_an_endpoint_that_lags_takes_nothing_back() -> None:
    """After a restart, the hashes of only a few blocks below our tip are known."""
    chain, follower = ScriptedChain(), Follower()
    chain.mine(grant(1))
    settled = chain.head
    for _ in range(4):
        chain.mine()
    behind = chain.head
    chain.mine()
    _, *logs = chain.mine(Revoked(1))
    revoked = [log for log in logs if isinstance(log, LoggedEvent)]
    chain.mine()
    follower.restore(chain.registry(settled.number), settled, revoked, chain.head)
    lagging = replace(chain, blocks=chain.blocks[: behind.number + 1])
    source = ScriptedSource(lagging)
    asyncio.run(_settle(follower, source))
    assert not follower.registry.nodes[1].active
    assert follower.tip == chain.head


async def _settle(follower: Follower, source: ScriptedSource) -> None:
    """Answer the follower's fetches until none is left."""
    from dstack_vpn.core.chain.commands import FetchEvents, FetchHead, FetchHeader

    commands = follower.receive(source.chain.head)
    while commands:
        match commands.pop(0):
            case FetchHead() as fetch:
                commands += follower.fetched(fetch, await source.head())
            case FetchHeader(number) as fetch:
                commands += follower.fetched(fetch, await source.header(number))
            case FetchEvents(first, last) as fetch:
                commands += follower.fetched(fetch, await source.events_up_to(first, last))


def test_nothing_is_settled_under_a_walk() -> None:
    chain, follower = ScriptedChain(), Follower()
    follower.bootstrapped(Registry(), chain.head)
    chain.mine()
    follower.receive(chain.head)
    chain.mine()
    final = chain.head
    follower.receive(final)
    chain.mine()
    chain.mine()
    follower.receive(chain.head)
    assert follower.walking
    assert not follower.settle(final)
