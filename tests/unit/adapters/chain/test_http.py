"""Faulty HTTP endpoints over real sockets."""

import asyncio

import pytest
from tests.fake_chain import FakeServer, Fault
from tests.unit.adapters.chain.connecting import DEADLINE, SECRET, connected

from dstack_vpn.errors import ChainError, RetryError


async def failing(server: FakeServer, scheme: str, fault: Fault) -> ChainError:
    """Return the error that `head` raises."""
    with pytest.raises(ChainError) as caught:
        async with connected(server, scheme) as session, asyncio.timeout(DEADLINE):
            server.faults.by_method["eth_getBlockByNumber"] = fault
            await session.head()
    assert SECRET not in str(caught.value)
    assert len(str(caught.value)) < 300
    return caught.value


async def test_http_429_says_when_to_come_back(fake_chain: FakeServer) -> None:
    fault = Fault(status=429, headers={"Retry-After": "17"}, body="<html>slow down</html>")
    error = await failing(fake_chain, "http", fault)
    assert isinstance(error, RetryError)
    assert error.retry_after == 17.0


async def test_an_http_endpoint_that_cuts_idle_connections_is_asked_again(fake_chain: FakeServer) -> None:
    async with connected(fake_chain, "http") as session:
        await session.head()
        await fake_chain.stop()
        await fake_chain.start()
        assert (await session.head()).number == 1
