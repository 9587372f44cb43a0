"""Two endpoints of one scripted chain, and the peers expected from its tokens."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.fake_chain import FakeChain, FakeServer, serve
from tests.integration.support import Peers
from tests.integration.views import addresses


@dataclass
class Pair:
    """Two endpoints of one chain."""

    chain: FakeChain
    first: FakeServer
    second: FakeServer

    def announce_both(self) -> None:
        """Announce mined blocks on each endpoint that runs."""

        async def announce(kind: str, items: Sequence[dict[str, Any]]) -> None:
            for server in (self.first, self.second):
                await server._announce(kind, items)

        self.chain.announce = announce

    def urls(self, scheme: str) -> list[str]:
        return [getattr(self.first, scheme), getattr(self.second, scheme)]


@asynccontextmanager
async def two_endpoints() -> AsyncIterator[Pair]:
    async with serve() as first, serve(first.chain) as second:
        pair = Pair(first.chain, first, second)
        pair.announce_both()
        yield pair


def members(chain: FakeChain) -> Peers:
    """Return the peers expected from the chain's tokens."""
    return {
        token.key: (addresses(chain.contract, token.id), token.endpoint or None)
        for token in chain.head.tokens.values()
        if token.key and not token.revoked
    }
