"""The cost of a quorum, and the time for which a false endpoint can hide a revocation.

Each figure is the time from the block's frame at the endpoints' sockets until wireguard-go
acknowledges the change, with 100 peers, over WebSockets. The cases are: one endpoint without a
quorum; two of three; two of three with one silent; and two of two, of which the followed endpoint
hides each revocation (with a resync every second).
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tests.fake_chain import FakeServer, Fault, serve
from tests.fake_chain.registry import Token

from benchmarks.events import _fill, _filled, _named
from benchmarks.harness import Daemon, new_key, quiet_namespace, running_daemon, summary

PEERS = 100
EVENTS = 100
HIDDEN = 60
PACE = 0.03
"""Seconds between events."""
RESYNC = 1.0
"""Seconds between resyncs of `hidden`."""


@asynccontextmanager
async def _endpoints(count: int) -> AsyncIterator[list[FakeServer]]:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(serve())
        servers = [
            first,
            *[await stack.enter_async_context(serve(first.chain)) for _ in range(count - 1)],
        ]

        async def announce(kind: str, items: Sequence[dict[str, Any]]) -> None:
            for server in servers:
                await server._announce(kind, items)

        first.chain.announce = announce
        _fill(first, PEERS)
        yield servers


async def _settled(daemon: Daemon, servers: list[FakeServer]) -> None:
    if len(servers) == 1:
        await _filled(daemon, PEERS)
        return
    await daemon.wait(lambda e: e["event"] == "peers.changed" and e["set"] == PEERS)
    await asyncio.sleep(2.0)


async def _timed(daemon: Daemon, servers: list[FakeServer], number: int, *, mint: bool) -> float:
    since, chain = len(daemon.entries), servers[0].chain
    began = time.time()  # noqa: TID251 - compared with the daemon's time stamps
    await (chain.mint(number) if mint else chain.revoke(number + 1))
    entry = await daemon.wait(_named("peer.set" if mint else "peer.removed"), since)
    await asyncio.sleep(PACE)
    return float(entry["at"] - began)


async def agreeing(count: int, quorum: int, silent: int = 0) -> dict[str, Any]:
    """Measure grants and revocations on which all endpoints agree, except the silent ones."""
    with quiet_namespace() as home:
        async with _endpoints(count) as servers:
            settings = {"RPC_URL": ",".join(s.ws for s in servers), "RPC_QUORUM": str(quorum)}
            async with running_daemon(home, new_key(), **settings) as daemon:
                await _settled(daemon, servers)
                for server in servers[count - silent :]:
                    server.faults.by_method["*"] = Fault(stall=True)
                grants, revocations = [], []
                for number in range(PEERS, PEERS + EVENTS):
                    grants.append(await _timed(daemon, servers, number, mint=True))
                    revocations.append(await _timed(daemon, servers, number, mint=False))
                return {
                    "grant": summary(grants),
                    "revocation": summary(revocations),
                    "memory_mb": daemon.memory(),
                }


async def hidden() -> dict[str, Any]:
    """Measure revocations that the followed endpoint hides in its logs and its replies."""
    with quiet_namespace() as home:
        async with _endpoints(2) as servers:
            before = dict(servers[0].chain.head.tokens)
            falsified = servers[0].faults.lies

            def unchanged(tokens: Mapping[int, Token], number: int) -> Mapping[int, Token]:
                return before

            falsified.state, falsified.hides = unchanged, lambda log: True
            settings = {
                "RPC_URL": ",".join(s.ws for s in servers),
                "RPC_QUORUM": "2",
                "SYNC_INTERVAL": str(int(RESYNC * 1000)),
            }
            async with running_daemon(home, new_key(), **settings) as daemon:
                await _settled(daemon, servers)
                seconds = []
                for number in range(HIDDEN):
                    await asyncio.sleep(random.random() * RESYNC)
                    seconds.append(await _timed(daemon, servers, number, mint=False))
                return {"revocation": summary(seconds), "audit_ms": RESYNC * 1000}


ALL = {
    "quorum-1-of-1": lambda: agreeing(1, 1),
    "quorum-2-of-3": lambda: agreeing(3, 2),
    "quorum-2-of-3-silent": lambda: agreeing(3, 2, silent=1),
    "quorum-hidden": hidden,
}
