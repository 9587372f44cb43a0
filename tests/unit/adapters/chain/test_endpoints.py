"""Endpoints that misbehave, over real sockets: what each fault becomes, and that nothing else escapes."""

import asyncio
from collections.abc import Awaitable

import pytest
from structlog.testing import capture_logs
from tests.fake_chain import FakeServer, Fault, serve
from tests.unit.adapters.chain.connecting import DEADLINE, SECRET, connected, pool_of

from dstack_vpn.adapters.chain.jsonrpc import Request
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.adapters.chain.websocket import open_websocket
from dstack_vpn.errors import ChainError, EndpointError, RangeError, RetryError, WrongChainError


async def failing(server: FakeServer, scheme: str, fault: Fault) -> ChainError:
    """The error that `head` meets."""
    with pytest.raises(ChainError) as caught:
        async with connected(server, scheme) as session, asyncio.timeout(DEADLINE):
            server.faults.by_method["eth_getBlockByNumber"] = fault
            await session.head()
    assert SECRET not in str(caught.value)
    assert len(str(caught.value)) < 300
    return caught.value


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(result=None), EndpointError),
        (Fault(result=[]), EndpointError),
        (Fault(result={"number": "0x1"}), EndpointError),
        (Fault(body="<html>" + "x" * 10_000), EndpointError),
        (Fault(body='{"jsonrpc":"2.0","id":'), EndpointError),
        (Fault(body='{"jsonrpc":"2.0","id":"seven","result":1}'), EndpointError),
        (Fault(error={"code": -32601, "message": f"unknown key {SECRET}"}), EndpointError),
        (Fault(error={"code": -32005, "message": "limit exceeded"}), RetryError),
    ],
)
async def test_nonsense_is_named_and_ends_the_session(
    fake_chain: FakeServer, scheme: str, fault: Fault, kind: type[ChainError]
) -> None:
    assert isinstance(await failing(fake_chain, scheme, fault), kind)


async def test_a_busy_endpoint_is_asked_again(fake_chain: FakeServer, scheme: str) -> None:
    async with connected(fake_chain, scheme) as session:
        error = {"code": -32016, "message": "over rate limit"}
        fake_chain.faults.by_method["eth_getBlockByNumber"] = Fault(error=error, times=2)
        assert (await session.head()).hash == fake_chain.chain.head.hash


async def test_http_429_says_when_to_come_back(fake_chain: FakeServer) -> None:
    fault = Fault(status=429, headers={"Retry-After": "17"}, body="<html>slow down</html>")
    error = await failing(fake_chain, "http", fault)
    assert isinstance(error, RetryError)
    assert error.retry_after == 17.0


async def test_a_stalled_call_meets_its_deadline(
    fake_chain: FakeServer, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(fake_chain, scheme) as session:
        fake_chain.faults.by_method["eth_getLogs"] = Fault(stall=True)
        monkeypatch.setattr("dstack_vpn.adapters.chain.ranges.DEADLINE", 0.2)
        monkeypatch.setattr("dstack_vpn.adapters.chain.ranges.RANGE_DEADLINE", 0.2)
        with pytest.raises(EndpointError, match="in time"):
            async with asyncio.timeout(DEADLINE):
                await session.events(0, 1)


async def test_a_wrong_chain_id_says_what_to_check(fake_chain: FakeServer, scheme: str) -> None:
    with pytest.raises(WrongChainError, match=r"serves chain 31337, but chain 8453 is configured.*CHAIN_ID"):
        async with connected(fake_chain, scheme, chain_id=8453):
            pass


async def test_a_wiped_chain_is_no_empty_registry(fake_chain: FakeServer, scheme: str) -> None:
    pool = pool_of(fake_chain, scheme)
    async with pool.session():
        pass
    await fake_chain.chain.wipe()
    with pytest.raises(WrongChainError, match="wiped or replaced"):
        async with pool.session():
            pass


async def test_a_chain_without_the_contract_is_the_wrong_one(fake_chain: FakeServer, scheme: str) -> None:
    fake_chain.faults.by_method["eth_getCode"] = Fault(result="0x")
    with pytest.raises(WrongChainError, match="no contract at 0x5fbdb"):
        async with connected(fake_chain, scheme):
            pass


async def test_nobody_listens(fake_chain: FakeServer, scheme: str) -> None:
    await fake_chain.stop()
    with pytest.raises(EndpointError, match="can't be reached"):
        async with connected(fake_chain, scheme):
            pass


@pytest.mark.parametrize(("status", "kind"), [(429, RetryError), (503, RetryError), (401, EndpointError)])
async def test_a_refused_handshake(fake_chain: FakeServer, status: int, kind: type[ChainError]) -> None:
    fake_chain.faults.by_method["handshake"] = Fault(status=status, headers={"Retry-After": "3"})
    with pytest.raises(kind, match=f"HTTP status {status}") as caught:
        async with connected(fake_chain, "ws"):
            pass
    assert isinstance(caught.value, EndpointError) or getattr(caught.value, "retry_after", None) == 3.0


async def test_a_redirected_websocket_is_not_followed(fake_chain: FakeServer) -> None:
    async with serve() as elsewhere:
        away = Fault(status=302, headers={"Location": f"{elsewhere.http}/{SECRET}"})
        fake_chain.faults.by_method["handshake"] = away
        with pytest.raises(EndpointError, match="the endpoint redirects") as caught:
            async with connected(fake_chain, "ws"):
                pass
        assert SECRET not in str(caught.value)
        assert (elsewhere.connections, sum(elsewhere.faults.calls.values())) == (0, 0)


async def test_a_cut_connection_fails_facts_and_waiting_calls(fake_chain: FakeServer) -> None:
    with pytest.raises(EndpointError, match="closed"):
        async with connected(fake_chain, "ws") as session, asyncio.timeout(DEADLINE):
            facts = session.facts()
            await anext(facts)
            fake_chain.faults.by_method["eth_getLogs"] = Fault(stall=True)
            async with asyncio.TaskGroup() as group:
                call = group.create_task(_outcome(session.events(0, 1)))
                await fake_chain.faults.stalled.wait()
                await fake_chain.drop_sockets()
            assert "closed" in call.result()
            await anext(facts)


async def _outcome(work: Awaitable[object]) -> str:
    try:
        await work
    except EndpointError as error:
        return str(error)
    return "no error"


async def test_an_http_endpoint_that_cuts_idle_connections_is_asked_again(fake_chain: FakeServer) -> None:
    async with connected(fake_chain, "http") as session:
        await session.head()
        await fake_chain.stop()
        await fake_chain.start()
        assert (await session.head()).number == 1


async def test_a_flood_fails_the_session_instead_of_losing_a_log(fake_chain: FakeServer) -> None:
    with pytest.raises(EndpointError, match="faster than they are processed"):
        async with open_websocket(RpcUrl.parse(fake_chain.ws), queue_length=5) as transport:
            await transport.exchange([Request(1, "eth_subscribe", ["newHeads"])], 5.0)
            await fake_chain.flood(20)
            for _ in range(20):
                await transport.notification(5.0)


async def test_a_silent_endpoint_is_left(fake_chain: FakeServer) -> None:
    with pytest.raises(EndpointError, match="no longer announces its blocks"):
        async with connected(fake_chain, "ws", block_time=0.2) as session, asyncio.timeout(DEADLINE):
            facts = session.facts()
            await anext(facts)
            fake_chain.faults.silent = True
            await fake_chain.chain.mine()
            await anext(facts)


async def test_no_credentials_are_logged(fake_chain: FakeServer, scheme: str) -> None:
    with capture_logs() as lines, pytest.raises(ChainError):
        async with connected(fake_chain, scheme) as session:
            fake_chain.faults.by_method["*"] = Fault(error={"code": 1, "message": f"bad key {SECRET}"})
            await session.head()
    assert {line["event"] for line in lines} == {"rpc.connected", "rpc.endpoint_left"}
    assert SECRET not in str(lines)


async def test_a_half_open_connection_is_noticed(fake_chain: FakeServer) -> None:
    with pytest.raises(EndpointError, match="did not reply to a ping"):
        async with open_websocket(RpcUrl.parse(fake_chain.ws), heartbeat=0.2) as transport:
            fake_chain.freeze_sockets()
            assert await transport.notification(DEADLINE) is None


async def test_an_answer_that_is_too_big_asks_for_less(
    fake_chain: FakeServer, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        f"dstack_vpn.adapters.chain.{'websocket' if scheme == 'ws' else 'http'}.MAX_MESSAGE", 2000
    )
    with pytest.raises(RangeError, match="exceeds"):
        async with connected(fake_chain, scheme) as session:
            fake_chain.faults.by_method["eth_getBlockByNumber"] = Fault(result="0x" + "00" * 4000)
            await session.head()


async def test_the_bodys_own_error_leaves_unwrapped(fake_chain: FakeServer, scheme: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with connected(fake_chain, scheme):
            raise ZeroDivisionError


async def test_a_session_can_be_cancelled(fake_chain: FakeServer, scheme: str) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), connected(fake_chain, scheme):
            await asyncio.Event().wait()
