"""Reads of logs and state from limited endpoints, including partial and foreign results."""

import asyncio
import json

import pytest
from structlog.testing import capture_logs
from tests.fake_chain import FakeServer, Fault
from tests.fake_chain.registry import Emitted, emit
from tests.unit.adapters.chain.connecting import DEADLINE, connected

from dstack_vpn.adapters.contracts import signatures
from dstack_vpn.core.chain.events import LoggedEvent
from dstack_vpn.core.model import BlockRef
from dstack_vpn.errors import EndpointError


async def test_a_removed_log_says_so(fake_chain: FakeServer) -> None:
    async with connected(fake_chain, "ws") as session, asyncio.timeout(DEADLINE):
        facts = session.facts()
        await anext(facts)
        await fake_chain.chain.mint(1)
        await fake_chain.chain.reorg(1)
        seen = [await anext(facts) for _ in range(4)]
    logs = [fact for fact in seen if isinstance(fact, LoggedEvent)]
    heads = [fact for fact in seen if isinstance(fact, BlockRef)]
    assert [log.removed for log in logs] == [False, True]
    assert logs[0].block_hash == logs[1].block_hash == heads[0].hash != heads[1].hash
    assert heads[0].number == heads[1].number


async def test_logs_that_do_not_decode_are_skipped(fake_chain: FakeServer, scheme: str) -> None:
    hostile = Emitted((signatures.NODE_ACCESS_GRANTED, "0x" + "0" * 63 + "7", "0x" + "ff" * 32), b"\xff" * 40)
    await fake_chain.chain.mine(emit(hostile))
    await fake_chain.chain.mint(1)
    with capture_logs() as lines:
        async with connected(fake_chain, scheme) as session:
            for _ in range(2):
                events = await session.events(0, fake_chain.chain.head.number)
                assert len(events) == 1
    refused = [line for line in lines if line["event"] == "chain.log_refused"]
    assert [(line["block"], line["log_index"]) for line in refused] == [(2, 0)]


async def test_logs_of_others_are_skipped_with_one_line(fake_chain: FakeServer) -> None:
    await fake_chain.chain.mint(1)
    foreign = {**fake_chain.chain.head.logs[1], "address": "0x" + "12" * 20}
    with capture_logs() as lines:
        async with connected(fake_chain, "ws") as session, asyncio.timeout(DEADLINE):
            facts = session.facts()
            await anext(facts)
            await fake_chain.push("logs", foreign)
            await fake_chain.push("logs", foreign)
            await fake_chain.chain.mint(2)
            assert isinstance(await anext(facts), LoggedEvent)
    assert [line["event"] for line in lines].count("chain.foreign_logs") == 1


async def test_ranges_shrink_to_what_the_endpoint_serves(fake_chain: FakeServer, scheme: str) -> None:
    for number in range(3):
        await fake_chain.chain.mint(number)
        await fake_chain.chain.mine_empty(20)
    fake_chain.faults.most_blocks = 7
    async with connected(fake_chain, scheme) as session:
        assert len(await session.events(0, fake_chain.chain.head.number)) == 3


async def test_logs_outside_of_the_range_are_a_lie(fake_chain: FakeServer, scheme: str) -> None:
    await fake_chain.chain.mint(1)
    fake_chain.faults.by_method["eth_getLogs"] = Fault(result=list(fake_chain.chain.head.logs))
    with pytest.raises(EndpointError, match="outside of the blocks 0 to 1"):
        async with connected(fake_chain, scheme) as session:
            await session.events(0, 1)


async def test_a_null_instead_of_logs_is_no_empty_registry(fake_chain: FakeServer, scheme: str) -> None:
    fake_chain.faults.by_method["eth_getLogs"] = Fault(result=None)
    with pytest.raises(EndpointError, match="logs is null"):
        async with connected(fake_chain, scheme) as session:
            await session.events(0, 1)


async def test_pages_are_halved_where_gas_runs_out(fake_chain: FakeServer, scheme: str) -> None:
    for number in range(10):
        await fake_chain.chain.mint(number)
    fake_chain.faults.most_nodes = 3
    async with connected(fake_chain, scheme) as session:
        everything = await session.read_all(await session.head())
        assert everything is not None
        assert [one.token_id for one in everything] == list(range(1, 11))


@pytest.mark.parametrize("multicall", [True, False])
async def test_many_tokens_are_read_together(fake_chain: FakeServer, scheme: str, multicall: bool) -> None:
    for number in range(6):
        await fake_chain.chain.mint(number)
    fake_chain.chain.multicall = multicall
    async with connected(fake_chain, scheme) as session:
        at = await session.head()
        before = session.stats["eth_call"].count
        observed = await session.read_tokens([*range(1, 7), 99], at)
        calls = session.stats["eth_call"].count - before
    assert [one.node is not None for one in observed] == [True] * 6 + [False]
    assert calls == (2 if multicall else 7)  # a call that failed in the multicall is repeated alone


async def test_an_endpoint_without_batches_is_asked_one_by_one(fake_chain: FakeServer) -> None:
    await fake_chain.chain.mint(1)
    fake_chain.faults.no_batches = True
    async with connected(fake_chain, "http") as session:
        observed = await session.read_tokens([1, 2, 3], await session.head())
    assert [one.node is not None for one in observed] == [True, False, False]


REFUSED = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "no batches here"}}


@pytest.mark.parametrize(
    "refusal",
    [
        Fault(status=405, body="<html>Method Not Allowed</html>"),
        Fault(status=400, body="Bad Request"),
        Fault(status=500, body=json.dumps(REFUSED)),
        Fault(status=200, body=json.dumps(REFUSED)),
        Fault(status=200, body="[]"),
        Fault(error={"code": -32600, "message": "batch requests are not allowed"}),
        Fault(drop=True),
    ],
    ids=["405", "400", "500", "one error", "nothing", "an error for each", "a cut connection"],
)
async def test_batches_that_are_refused_as_a_whole(fake_chain: FakeServer, refusal: Fault) -> None:
    await fake_chain.chain.mint(1)
    fake_chain.faults.batches = refusal
    async with connected(fake_chain, "http") as session:
        observed = await session.read_tokens([1, 2, 3], await session.head())
    assert [one.node is not None for one in observed] == [True, False, False]


@pytest.mark.parametrize(
    "genesis",
    [None, Fault(error={"code": 4444, "message": "pruned history unavailable"})],
    ids=["null", "pruned"],
)
async def test_an_endpoint_without_block_0_counts_if_the_block_is_known(
    fake_chain: FakeServer, scheme: str, genesis: Fault | None
) -> None:
    known = fake_chain.chain.blocks[0].hash
    fake_chain.faults.genesis = genesis
    async with connected(fake_chain, scheme, genesis_hash=known) as session:
        assert session.identity.genesis_hash == known
    with pytest.raises(EndpointError, match="does not have block 0"):
        async with connected(fake_chain, scheme):
            pass


async def test_a_chain_id_as_a_decimal_text(fake_chain: FakeServer, scheme: str) -> None:
    fake_chain.faults.by_method["eth_chainId"] = Fault(result="31337")
    async with connected(fake_chain, scheme, chain_id=31337) as session:
        assert session.identity.chain_id == 31337


async def test_without_finality_there_is_none(fake_chain: FakeServer, scheme: str) -> None:
    fake_chain.faults.no_finalized = True
    async with connected(fake_chain, scheme) as session:
        assert await session.finalized() is None
        fake_chain.faults.by_method["eth_getBlockByNumber"] = Fault(result=None)
        assert await session.finalized() is None


async def test_without_history_the_first_block_is_zero(fake_chain: FakeServer, scheme: str) -> None:
    await fake_chain.chain.mine_empty(10)
    fake_chain.faults.pruned_before = 9
    async with connected(fake_chain, scheme) as session:
        assert await session.first_block() == 0
        asked = session.stats["eth_getCode"].count
        assert await session.first_block() == 0
        assert session.stats["eth_getCode"].count == asked


async def test_a_steady_state_event_costs_no_call(fake_chain: FakeServer) -> None:
    async with connected(fake_chain, "ws") as session, asyncio.timeout(DEADLINE):
        facts = session.facts()
        await anext(facts)
        before = sum(stats.count for stats in session.stats.values())
        await fake_chain.chain.mint(1)
        assert {type(await anext(facts)) for _ in range(2)} == {BlockRef, LoggedEvent}
        assert sum(stats.count for stats in session.stats.values()) == before
