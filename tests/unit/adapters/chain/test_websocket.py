"""Faulty WebSocket endpoints over real sockets."""

import asyncio
from collections.abc import Awaitable

import pytest
from tests.fake_chain import FakeServer, Fault, serve
from tests.unit.adapters.chain.connecting import DEADLINE, SECRET, connected

from dstack_vpn.adapters.chain import feed, watchdog
from dstack_vpn.adapters.chain.jsonrpc import Request
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.adapters.chain.websocket import open_websocket
from dstack_vpn.errors import ChainError, EndpointError, RetryError


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


async def test_a_flood_fails_the_session_instead_of_losing_a_log(fake_chain: FakeServer) -> None:
    with pytest.raises(EndpointError, match="faster than they are processed"):
        async with open_websocket(RpcUrl.parse(fake_chain.ws), queue_length=5) as transport:
            await transport.exchange([Request(1, "eth_subscribe", ["newHeads"])], 5.0)
            await fake_chain.flood(20)
            for _ in range(20):
                await transport.notification(5.0)


async def test_a_silent_endpoint_is_left(fake_chain: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_SHORTEST", 0.4)  # test_watchdog covers the real times
    monkeypatch.setattr(feed, "GRACE", 0.2)
    with pytest.raises(EndpointError, match="no longer announces its blocks"):
        async with connected(fake_chain, "ws", block_time=0.2) as session, asyncio.timeout(DEADLINE):
            facts = session.facts()
            await anext(facts)
            fake_chain.faults.silent = True
            await fake_chain.chain.mine()
            await anext(facts)


async def test_a_half_open_connection_is_noticed(fake_chain: FakeServer) -> None:
    with pytest.raises(EndpointError, match="did not reply to a ping"):
        async with open_websocket(RpcUrl.parse(fake_chain.ws), heartbeat=0.2) as transport:
            fake_chain.freeze_sockets()
            assert await transport.notification(DEADLINE) is None
