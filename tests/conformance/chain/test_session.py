"""The behaviour of every session, over every transport, to every chain."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.anvil import key_of
from tests.conformance.chain.conftest import Connected, DevChain

from dstack_vpn.adapters.chain import ranges
from dstack_vpn.core.chain.events import (
    Granted,
    KeyUpdated,
    LoggedEvent,
    PolicyRead,
    RegistryEvent,
    Revoked,
    TokenState,
    Transferred,
)
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import ZERO_ADDRESS, BlockRef
from dstack_vpn.errors import EndpointError
from dstack_vpn.ports import ChainFact, EarlyFact, Unannounced

DEADLINE = 10.0


async def facts_until_head(
    facts: AsyncIterator[ChainFact | Unannounced | EarlyFact], number: int
) -> list[ChainFact | Unannounced | EarlyFact]:
    """Return the facts up to a head; the logs of its block may come before or after it."""
    seen: list[ChainFact | Unannounced | EarlyFact] = []
    async with asyncio.timeout(DEADLINE):
        async for fact in facts:
            seen.append(fact)
            if isinstance(fact, BlockRef) and fact.number >= number:
                return seen
    raise AssertionError("the facts ended")


def kinds(events: list[LoggedEvent]) -> list[type[RegistryEvent]]:
    return [type(event.event) for event in events]


async def test_the_identity_is_that_of_the_chain(connected: Connected, chain: DevChain) -> None:
    identity = connected.session.identity
    genesis = await connected.session.header(0)
    assert genesis is not None
    assert (identity.chain_id, identity.contract, identity.genesis_hash) == (
        31337,
        chain.contract,
        genesis.hash,
    )
    assert connected.session.abi.name == "access-registry"


async def test_headers_link_to_their_parents_and_end_at_the_head(
    connected: Connected, chain: DevChain
) -> None:
    await chain.mine(3)
    head = await connected.session.head()
    parent = await connected.session.header(head.number - 1)
    assert parent is not None
    assert head.parent_hash == parent.hash
    assert await connected.session.header(head.number) == head
    assert await connected.session.header(head.number + 1) is None


async def test_the_finalized_block_is_below_the_head(connected: Connected, chain: DevChain) -> None:
    await chain.mine(5)
    head, finalized = await connected.session.head(), await connected.session.finalized()
    assert finalized is not None
    assert finalized.number < head.number
    assert await connected.session.header(finalized.number) == finalized


async def test_an_extension_shows_the_chain_after_our_block(connected: Connected, chain: DevChain) -> None:
    await chain.mine(3)
    tip = await connected.session.head()
    assert await connected.session.extension(tip) is None, "the latest block's own hash can't be read"
    before = await connected.session.revision(tip)
    await chain.mint(7)
    await chain.mine(150)
    found = await connected.session.extension(tip)
    assert found is not None
    head, latest = await connected.session.header(found.head.number), await connected.session.head()
    assert head is not None
    assert (found.known, found.latest) == (tip, latest.number)
    assert found.head == replace(head, timestamp=latest.timestamp)
    revision = await connected.session.revision(latest)
    assert found.revision == (revision if isinstance(revision, int) else None)
    assert before != revision
    early = await connected.session.header(tip.number - 1)
    assert early is not None
    assert await connected.session.extension(head, tip, early) is not None
    await chain.reorg(152)
    await chain.mine(154)
    assert await connected.session.extension(tip) is None


async def test_the_first_fact_is_the_latest_block(connected: Connected, chain: DevChain) -> None:
    facts = connected.session.facts()
    async with asyncio.timeout(DEADLINE):
        assert await anext(facts) == await connected.session.head()


async def test_a_mint_shows_as_facts(connected: Connected, chain: DevChain) -> None:
    facts = connected.session.facts()
    first = await anext(facts)
    assert isinstance(first, BlockRef)
    await chain.mint(7)
    await chain.mine(1)
    seen = await facts_until_head(facts, first.number + 2)
    head = await connected.session.head()
    assert [fact for fact in seen if isinstance(fact, BlockRef)][-1] == head
    if connected.streams:
        (event,) = [fact for fact in seen if isinstance(fact, LoggedEvent)]
        assert event.event == Granted(1, chain.owner, "node-7", key_of(7))
        assert event.block_hash == head.parent_hash


async def test_a_reorg_shows_as_other_heads(connected: Connected, chain: DevChain) -> None:
    await chain.mine(3)
    facts = connected.session.facts()
    first = await anext(facts)
    assert isinstance(first, BlockRef)
    await chain.mint(1)
    await chain.mine(1)
    before = (await facts_until_head(facts, first.number + 2))[-1]
    assert isinstance(before, BlockRef)
    await chain.reorg(2)
    await chain.mine(1)
    after = (await facts_until_head(facts, before.number + 1))[-1]
    assert isinstance(after, BlockRef)
    assert after.parent_hash != before.hash
    assert await connected.session.events(2, after.number) == []
    assert await connected.session.read_all(after) == []


async def test_events_come_in_order_and_from_the_range_asked_for(
    connected: Connected, chain: DevChain
) -> None:
    await chain.mint(1)
    await chain.mint(2)
    await chain.update_key(1, 11)
    await chain.transfer(2)
    await chain.revoke(1)
    head = (await connected.session.head()).number
    events = await connected.session.events(2, head)
    assert kinds(events) == [Granted, Granted, KeyUpdated, Transferred, Transferred, Revoked]
    positions = [(event.block_number, event.log_index) for event in events]
    assert positions == sorted(set(positions))
    assert await connected.session.events(head - 2, head - 1) == events[2:5]
    assert await connected.session.events(head, head) == events[5:]


async def test_the_events_of_one_block(connected: Connected, chain: DevChain) -> None:
    await chain.mint(1)
    head = await connected.session.head()
    (event,) = await connected.session.block_events(head.hash)
    assert (event.block_hash, event.event) == (head.hash, Granted(1, chain.owner, "node-1", key_of(1)))
    await chain.mine(1)
    assert await connected.session.block_events((await connected.session.head()).hash) == []


async def test_an_unknown_block_has_no_events_but_an_error(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "LAG", 0.5)  # the wait for a backend that lags
    with pytest.raises(EndpointError, match="does not know block"):
        await connected.session.block_events("0x" + "12" * 32)


async def test_tokens_are_read_as_they_were_at_that_block(connected: Connected, chain: DevChain) -> None:
    await chain.mint(1)
    then = await connected.session.head()
    await chain.update_key(1, 11)
    now = await connected.session.head()
    assert [key_at(await connected.session.read_tokens([1], at)) for at in (then, now)] == [
        key_of(1),
        key_of(11),
    ]


def key_at(observed: list[TokenState]) -> object:
    (one,) = observed
    assert isinstance(one.node, Node)
    return one.node.public_key


async def test_reading_tokens_says_which_do_not_exist(connected: Connected, chain: DevChain) -> None:
    await chain.mint(1)
    at = await connected.session.head()
    one, two = await connected.session.read_tokens([2, 1], at)
    assert one == TokenState(2, None)
    assert two.node is not None
    assert await connected.session.read_tokens([], at) == []


async def test_one_token_costs_one_call(connected: Connected, chain: DevChain) -> None:
    await chain.mint(1)
    at = await connected.session.head()
    before = connected.session.stats["eth_call"].count
    await connected.session.read_tokens([1], at)
    assert connected.session.stats["eth_call"].count == before + 1


async def test_all_tokens_are_those_that_were_minted(connected: Connected, chain: DevChain) -> None:
    assert await connected.session.read_all(await connected.session.head()) == []
    for number in range(5):
        await chain.mint(number)
    at = await connected.session.head()
    everything = await connected.session.read_all(at)
    assert everything is not None
    assert [one.token_id for one in everything] == [1, 2, 3, 4, 5]
    assert everything == await connected.session.read_tokens([1, 2, 3, 4, 5], at)


async def test_the_contracts_own_state(connected: Connected, chain: DevChain) -> None:
    at = await connected.session.head()
    found = await connected.session.read_contract(at)
    assert found is not None
    assert (found.is_read, found.tag_names, found.policy, found.minters) == (True, (), None, ())
    assert found.owner != ZERO_ADDRESS
    assert await connected.session.read_policy(at) == PolicyRead(None)


async def test_the_first_block_is_where_the_contract_was_deployed(
    connected: Connected, chain: DevChain
) -> None:
    await chain.mine(20)
    assert await connected.session.first_block() == 1


async def test_the_revision_changes_with_the_registry_only(connected: Connected, chain: DevChain) -> None:
    first = await connected.session.head()
    before = await connected.session.revision(first)
    await chain.mine(2)
    assert await connected.session.revision(await connected.session.head()) == before
    await chain.mint(1)
    assert await connected.session.revision(await connected.session.head()) not in (before, None)
    assert await connected.session.revision(first) == before, "the one of that block"


async def test_the_storage_root_changes_with_the_contract_only(
    to_uncounted: Connected, uncounted: DevChain
) -> None:
    session, roots = to_uncounted.session, []
    first = await session.head()
    changes: tuple[Callable[[], Awaitable[Any]], ...] = (
        lambda: uncounted.mint(1),
        lambda: uncounted.update_key(1, 11),
        lambda: uncounted.transfer(1),
        lambda: uncounted.revoke(1),
    )
    for change in changes:
        roots.append(await session.revision(await session.head()))
        await uncounted.mine(2)
        assert await session.revision(await session.head()) == roots[-1], "no block is a change"
        await change()
    roots.append(await session.revision(await session.head()))
    assert len(set(roots)) == len(roots)
    assert all(isinstance(root, str) and len(root) == 66 for root in roots)
    assert await session.revision(first) == roots[0], "the one of that block"
    assert session.stats["eth_getProof"].count == 10


async def test_the_storage_root_is_that_of_the_new_fork(to_uncounted: Connected, uncounted: DevChain) -> None:
    session = to_uncounted.session
    await uncounted.mine(2)
    before = await session.revision(await session.head())
    await uncounted.mint(1)
    assert await session.revision(await session.head()) != before
    await uncounted.reorg(1)
    assert await session.revision(await session.head()) == before
