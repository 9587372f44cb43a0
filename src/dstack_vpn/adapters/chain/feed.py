"""Notifications of an endpoint: heads and logs over WebSocket, heads by polling over HTTP.

Over WebSocket, heads can be polled as well: providers bill notifications by the byte, and a chain
with 5 blocks a second sends hundreds of megabytes of heads a day.

The first fact of each feed is the latest block, read after the subscriptions were confirmed. No
later event is missed. All run under `watchdog.HeadWatch`, which recognizes an endpoint that stands
still.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from dstack_vpn.adapters.chain.caller import LAG, Caller
from dstack_vpn.adapters.chain.fields import parse_header
from dstack_vpn.adapters.chain.jsonrpc import Json, Notification
from dstack_vpn.adapters.chain.logs import LogReader
from dstack_vpn.adapters.chain.preconfirmed import PreconfirmedLogs
from dstack_vpn.adapters.chain.watchdog import GRACE, HeadWatch
from dstack_vpn.core.model import BlockRef
from dstack_vpn.errors import EndpointError
from dstack_vpn.ports import ChainFact, EarlyFact, Unannounced

SOON: Final = 0.1
"""Seconds from a log to the query for the latest block."""
OFTEN: Final = 1.0
"""Seconds between queries while an event waits for later blocks."""


class Heads(Protocol):
    """The methods of the session that a feed uses."""

    async def head(self) -> BlockRef:
        """Return the latest block."""

    def announced(self, head: BlockRef) -> None:
        """Record an announced head."""


class Subscription:
    """Facts over a WebSocket."""

    def __init__(
        self,
        caller: Caller,
        reader: LogReader,
        watch: HeadWatch,
        monotonic: Callable[[], float],
        heads: Heads,
        *,
        early: PreconfirmedLogs,
    ) -> None:
        self._early = early
        self._began = monotonic()
        self._logged = ""
        """The hash of the block of the last log."""
        self._transport = caller.transport
        self._caller = caller
        self._reader = reader
        self._watch = watch
        self._monotonic = monotonic
        self._heads = heads
        self._logs_id = self._heads_id = ""

    async def facts(self) -> AsyncIterator[ChainFact | Unannounced | EarlyFact]:
        """Yield heads and logs until the connection fails. Raises `ChainError`."""
        self._logs_id = _subscription(await self._caller.call("eth_subscribe", "logs", self._reader.filter))
        self._heads_id = _subscription(await self._caller.call("eth_subscribe", "newHeads"))
        first = await self._heads.head()
        self._watch.head(first, self._monotonic())
        yield first
        if (outcome := await self._early.subscribe()) is not None:
            yield outcome
        while True:
            note = await self._transport.notification(self._watch.wait(self._monotonic()))
            fact = await self._probe() if note is None else self._fact(note)
            if fact is not None:
                yield fact
            if isinstance(fact, BlockRef) and note is not None and self._is_doubtful(fact, note):
                yield Unannounced(fact)

    def _is_doubtful(self, head: BlockRef, note: Notification) -> bool:
        """Return True if the logs of a block may not be announced.

        Two backends may serve the two subscriptions. At first, the backend for logs may be ahead of
        the one for heads. An all-zero bloom filter proves that a block has no logs.
        """
        bloom = note.result.get("logsBloom")
        empty = isinstance(bloom, str) and not bloom.removeprefix("0x").strip("0")
        return self._monotonic() - self._began < LAG and not empty and head.hash != self._logged

    def _fact(self, note: Notification) -> ChainFact | EarlyFact | None:
        if note.subscription == self._heads_id:
            head = parse_header(note.result)
            self._heads.announced(head)
            self._watch.head(head, self._monotonic())
            return head
        if note.subscription != self._logs_id:
            return self._early.fact(note)
        event = self._reader.event(note.result)
        if event is not None:
            self._logged = event.block_hash
        return event

    async def _probe(self) -> ChainFact | EarlyFact | None:
        """Query the latest block of a silent endpoint.

        Return the fact that arrived in the meantime, or None.
        """
        latest = await self._heads.head()
        if self._watch.is_newer(latest):
            note = await self._transport.notification(GRACE)
            if note is None:
                raise EndpointError(
                    f"the endpoint is at block {latest.number}, but no longer announces its blocks"
                )
            return self._fact(note)
        now = self._monotonic()
        _check_stalled(self._watch, latest, now)
        self._watch.idle(now)
        if not self._watch.is_other(latest):
            return None
        self._watch.head(latest, now)  # anvil does not announce a reorg that adds no height
        return latest


@dataclass(frozen=True, slots=True)
class LogSubscription:
    """Logs over a WebSocket, with polled heads.

    A reply to a poll proves that the connection works. A lost subscription shows only in the next
    comparison with the contract.
    """

    caller: Caller
    reader: LogReader
    watch: HeadWatch
    monotonic: Callable[[], float]
    heads: Heads
    interval: float
    """Seconds between polls; while ``needs_heads`` returns True, it is `OFTEN`."""
    needs_heads: Callable[[], bool]
    early: PreconfirmedLogs

    async def facts(self) -> AsyncIterator[ChainFact | EarlyFact]:
        """Yield logs and polled heads until the connection fails. Raises `ChainError`."""
        logs = _subscription(await self.caller.call("eth_subscribe", "logs", self.reader.filter))
        yield await self._latest()
        if (outcome := await self.early.subscribe()) is not None:
            yield outcome
        due, highest, announced = self.monotonic() + self.interval, 0, -math.inf
        while True:
            note = await self.caller.transport.notification(max(due - self.monotonic(), 0.0))
            if note is not None and note.subscription == logs:
                event = self.reader.event(note.result)
                if event is not None:
                    yield event
                    highest, announced = max(highest, event.block_number), self.monotonic()
                    due = min(due, announced + SOON)
            elif note is not None and (hint := self.early.fact(note)) is not None:
                yield hint
                due = min(due, self.monotonic() + OFTEN)
            if (now := self.monotonic()) >= due:
                latest = await self._latest()
                # A lower block may come from a backend that lags behind the one of the log.
                lags = latest.number < highest and now < announced + LAG
                if not lags:
                    highest = 0
                    yield latest
                often = lags or self.needs_heads()
                due = self.monotonic() + (OFTEN if often else self.interval)

    async def _latest(self) -> BlockRef:
        latest, now = await self.heads.head(), self.monotonic()
        if self.watch.is_other(latest):
            self.watch.head(latest, now)
        else:
            _check_stalled(self.watch, latest, now)
        return latest


async def poll(
    watch: HeadWatch,
    heads: Heads,
    monotonic: Callable[[], float],
    interval: float,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[ChainFact]:
    """Yield new heads, queried every ``interval`` seconds. Raises `ChainError`."""
    while True:
        latest = await heads.head()
        now = monotonic()
        # A lower block may come from a backend that lags. It counts as a reorg only if it persists.
        if watch.is_other(latest) and (not watch.is_lower(latest) or not watch.wait(now)):
            watch.head(latest, now)
            yield latest
        else:
            _check_stalled(watch, latest, now)
        await sleep(interval)


def _check_stalled(watch: HeadWatch, latest: BlockRef, now: float) -> None:
    if watch.is_stalled(now):
        raise EndpointError(
            f"the endpoint has stayed at block {latest.number} for too long: it does not follow its chain"
        )


def _subscription(value: Json) -> str:
    if not isinstance(value, str) or not value:
        raise EndpointError("the endpoint replied to eth_subscribe without a subscription id")
    return value
