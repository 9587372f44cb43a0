"""Limits on the DNS responder's clients and queries, shared by its listeners (`core.limits`)."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from dstack_vpn.core.limits.pace import Limiter, Pace
from dstack_vpn.core.limits.shares import Kind, Places, Shares, Source, Sources

CONNECTIONS: Final = Shares(
    total=48, each=4, ours=16, reserved={Kind.OURS: 4, Kind.MEMBER: 16, Kind.STRANGER: 8}, stale=1.0
)
"""Limits of concurrent TCP clients."""
QUESTIONS: Final = Shares(
    total=64, each=24, ours=40, reserved={Kind.OURS: 8, Kind.MEMBER: 16, Kind.STRANGER: 8}, stale=float("inf")
)
"""Limits of concurrent queries that are forwarded to another server."""
PACE: Final = Pace(rate=100, burst=200, rate_of_kind=500, burst_of_kind=500, longest=0.0)
"""The query rate of a source. A query beyond it gets no reply: its client repeats it, a flood does
not wait.

A reply takes a third of a millisecond, so members together can use a sixth of a processor.
"""
OWN_PACE: Final = Pace(rate=500, burst=500, rate_of_kind=2000, burst_of_kind=2000, longest=0.0)
"""The query rate of this machine, on which many programs send queries."""


@dataclass(frozen=True, slots=True, eq=False)
class TcpClient:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    source: Source


class Desk:
    """Admits clients and queries."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self._limiter, self._own = Limiter(PACE), Limiter(OWN_PACE)
        self._clients: Places[TcpClient] = Places(CONNECTIONS)
        self._questions: Places[asyncio.Task[object]] = Places(QUESTIONS)

    def admits(self, source: Source) -> bool:
        """Return True if the rate of a source permits a query now."""
        limiter = self._own if source.kind is Kind.OURS else self._limiter
        return limiter.take(source, time.monotonic()) is not None

    @contextmanager
    def connection(self, client: TcpClient) -> Iterator[bool]:
        """Hold a place for a TCP client. Yield False if all places are taken."""
        taken = self._clients.take(client.source, client, time.monotonic())
        if taken is not None and taken.displaced is not None:
            taken.displaced.writer.transport.abort()
        try:
            yield taken is not None
        finally:
            self._clients.leave(client)

    @contextmanager
    def serving(self, client: TcpClient) -> Iterator[None]:
        """Protect a client's place while its query is processed."""
        self._clients.firm(client)
        try:
            yield
        finally:
            self._clients.loosen(client, time.monotonic())

    @asynccontextmanager
    async def question(self, source: Source) -> AsyncIterator[bool]:
        """Hold a place for a query that the current task forwards. Yield False if all are taken.

        The task is cancelled if its place is given to another source.
        """
        task = asyncio.current_task()
        assert task is not None
        taken = self._questions.take(source, task, time.monotonic())
        if taken is not None and taken.displaced is not None:
            taken.displaced.cancel()
        try:
            yield taken is not None
        finally:
            self._questions.leave(task)
