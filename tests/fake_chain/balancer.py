"""A load balancer: one URL for several backends of the same chain, each with its own lag."""

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from aiohttp import web
from tests.fake_chain.chain import Block, FakeChain
from tests.fake_chain.server import FakeServer

BACKENDS = 3
_EVERY = 8
"""The number of blocks after which a backend's lag is drawn again."""


@dataclass
class Balancer(FakeServer):
    """A server that assigns each call (also in a batch) and subscription to a random backend."""

    lag: float = 5.0
    """The maximum lag of a backend, in seconds."""
    chance: Random = field(default_factory=Random)
    _imported: list[dict[str, float]] = field(default_factory=lambda: [{} for _ in range(BACKENDS)])
    """By backend: the times at which it has the blocks, by block hash."""
    _lags: list[float] = field(default_factory=lambda: [0.0] * BACKENDS)
    _backend: dict[str, int] = field(default_factory=dict)
    """The backends by subscription."""
    group: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)
    pending: list[asyncio.Task[None]] = field(default_factory=list)

    def import_block(self, block: Block) -> None:
        """Set the time at which each backend has a new block: after its lag, and in order."""
        now = time.monotonic()
        for number, imported in enumerate(self._imported):
            if block.number % _EVERY == 0:
                self._lags[number] = self.chance.uniform(0.0, self.lag)
            imported[block.hash] = max(now + self._lags[number], imported.get(block.parent_hash, 0.0))

    async def mine(self, *transactions: Any) -> Block:
        """Mine a block, for all backends."""
        block = self.chain._append(transactions)
        self.import_block(block)
        self._deliver([block])
        return block

    def _view(self, backend: int) -> FakeChain:
        """Return the chain as a backend has it."""
        view, now = copy.copy(self.chain), time.monotonic()
        have = self._imported[backend]
        view.blocks = [block for block in self.chain.blocks if have.get(block.hash, 0.0) <= now]
        return view

    def _deliver(self, blocks: Sequence[Block], only: str | None = None) -> None:
        """Announce blocks to each subscription when its backend has them."""
        now = time.monotonic()
        for subscription, (kind, _, socket) in list(self._subscriptions.items()):
            backend = self._backend[subscription]
            for block in blocks if only in (None, subscription) else ():
                if (due := self._imported[backend].get(block.hash, 0.0)) > now or only is None:
                    items = [block.header()] if kind == "newHeads" else list(block.logs)
                    self.pending.append(
                        self.group.create_task(self._later(due - now, socket, subscription, items))
                    )

    async def _later(
        self, seconds: float, socket: web.WebSocketResponse, subscription: str, items: Sequence[Any]
    ) -> None:
        await asyncio.sleep(max(seconds, 0.0))
        for item in items:
            await self._notify(socket, subscription, item)

    def _result(self, method: str, params: list[Any], socket: web.WebSocketResponse | None) -> Any:
        backend, whole = self.chance.randrange(BACKENDS), self.chain
        self.chain = self._view(backend)
        try:
            result = super()._result(method, params, socket)
        finally:
            self.chain = whole
        if method == "eth_subscribe":
            self._backend[result] = backend
            asyncio.get_running_loop().call_soon(self._deliver, whole.blocks[-200:], result)
        return result


@asynccontextmanager
async def balanced(lag: float, seed: int) -> AsyncIterator[Balancer]:
    """Serve a new chain by a balancer."""
    server = Balancer(FakeChain(), lag=lag, chance=Random(seed))
    await server.start()
    try:
        async with server.group:
            yield server
            for pending in list(server.pending):
                pending.cancel()
    finally:
        await server.stop()
