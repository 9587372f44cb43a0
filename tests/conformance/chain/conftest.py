"""Both development chains under one interface, each by WebSocket and by HTTP."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pytest
from tests.anvil import key_of, running_anvil
from tests.fake_chain import registry, serve
from tests.integration.views import Behaviour, deploy_model, model_call

from dstack_vpn.adapters.chain import RpcPool, RpcSession
from dstack_vpn.adapters.contracts import calls
from dstack_vpn.adapters.contracts.access_registry import AccessRegistry


class DevChain(Protocol):
    """The operations on a chain that the suite needs."""

    http: str
    ws: str
    contract: str
    owner: str
    """Account 1, which owns the nodes."""

    def mint(self, number: int) -> Awaitable[Any]: ...
    def revoke(self, token: int) -> Awaitable[Any]: ...
    def transfer(self, token: int) -> Awaitable[Any]: ...
    def update_key(self, token: int, number: int) -> Awaitable[Any]: ...
    def mine(self, blocks: int) -> Awaitable[Any]: ...
    def reorg(self, depth: int) -> Awaitable[Any]: ...


async def _anvil(stack: AsyncExitStack) -> DevChain:
    anvil = await stack.enter_async_context(running_anvil())

    class OnAnvil:
        http, ws, contract, owner = anvil.http, anvil.ws, anvil.contract, anvil.accounts[1]
        mint, revoke, mine, reorg = anvil.mint, anvil.revoke, anvil.mine, anvil.reorg

        async def transfer(self, token: int) -> None:
            await anvil.send(calls.transfer(self.owner, anvil.accounts[2], token), sender=1)

        async def update_key(self, token: int, number: int) -> None:
            await anvil.send(calls.update_key(token, key_of(number)), sender=1)

    return OnAnvil()


async def _deployed(stack: AsyncExitStack) -> DevChain:
    """Return anvil with the model of the deployed contract."""
    anvil = await stack.enter_async_context(running_anvil())
    await deploy_model(anvil, Behaviour())

    class OnAnvil:
        http, ws, contract, owner = anvil.http, anvil.ws, anvil.contract, anvil.accounts[1]
        mint, revoke, mine, reorg = anvil.mint, anvil.revoke, anvil.mine, anvil.reorg

        async def transfer(self, token: int) -> None:
            data = model_call("transferFrom(address,address,uint256)", self.owner, anvil.accounts[2], token)
            await anvil.send(data, sender=1)

        async def update_key(self, token: int, number: int) -> None:
            await anvil.send(model_call("updatePublicKey(string)", str(key_of(number))), sender=1)

    return OnAnvil()


async def _fake(stack: AsyncExitStack) -> DevChain:
    server = await stack.enter_async_context(serve())
    chain = server.chain

    class OnFake:
        http, ws, contract, owner = server.http, server.ws, chain.contract, chain.accounts[1]
        mint, revoke, mine, reorg = chain.mint, chain.revoke, chain.mine_empty, chain.reorg

        async def transfer(self, token: int) -> None:
            await chain.mine(registry.transfer(token, chain.accounts[2]))

        async def update_key(self, token: int, number: int) -> None:
            await chain.mine(registry.update_key(token, str(key_of(number))))

    return OnFake()


@pytest.fixture(params=["fake", pytest.param("anvil", marks=pytest.mark.anvil)])
async def chain(request: pytest.FixtureRequest) -> AsyncIterator[DevChain]:
    async with AsyncExitStack() as stack:
        yield await (_anvil if request.param == "anvil" else _fake)(stack)


@pytest.fixture(params=["fake", pytest.param("anvil", marks=pytest.mark.anvil)])
async def uncounted(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DevChain]:
    """Yield a chain whose contract has no ``revision()``; on anvil, it also can't enumerate."""
    monkeypatch.setattr(AccessRegistry, "revision_call", None)
    async with AsyncExitStack() as stack:
        yield await (_deployed if request.param == "anvil" else _fake)(stack)


@dataclass
class Connected:
    """A session over one of the two transports."""

    session: RpcSession
    streams: bool


@pytest.fixture(params=["ws", "http"])
async def connected(request: pytest.FixtureRequest, chain: DevChain) -> AsyncIterator[Connected]:
    async with _connect(chain, request.param) as found:
        yield found


@pytest.fixture(params=["ws", "http"])
async def to_uncounted(request: pytest.FixtureRequest, uncounted: DevChain) -> AsyncIterator[Connected]:
    async with _connect(uncounted, request.param) as found:
        yield found


@asynccontextmanager
async def _connect(chain: DevChain, scheme: str) -> AsyncIterator[Connected]:
    url = chain.ws if scheme == "ws" else chain.http
    pool = RpcPool([url], chain.contract, chain_id=31337, poll_interval=0.02)
    async with pool.session() as session:
        assert isinstance(session, RpcSession)
        yield Connected(session, scheme == "ws")
