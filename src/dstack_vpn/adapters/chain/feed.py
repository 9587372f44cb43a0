"""Notifications of an endpoint: heads and logs over WebSocket, heads by polling over HTTP.

Over WebSocket, heads can be polled as well: providers bill notifications by the byte, and a chain
with 5 blocks a second sends hundreds of megabytes of heads a day. A poll asks for an `Extension` of
our tip. It queries a header only if that is not enough.

The first fact of each feed is the latest block, read after the subscriptions were confirmed. No
later event is missed. All run under `watchdog.HeadWatch`, which recognizes an endpoint that stands
still.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from dstack_vpn.adapters.chain.caller import LAG, Caller
from dstack_vpn.adapters.chain.fields import parse_header
from dstack_vpn.adapters.chain.jsonrpc import Json, Notification
from dstack_vpn.adapters.chain.logs import LogReader
from dstack_vpn.adapters.chain.preconfirmed import PreconfirmedLogs
from dstack_vpn.adapters.chain.watchdog import GRACE, HeadWatch
from dstack_vpn.core.chain.extension import Extension
from dstack_vpn.core.model import BlockRef
from dstack_vpn.errors import BehindError, EndpointError
from dstack_vpn.ports import ChainFact, EarlyFact, HeadNeeds, Unannounced

SOON: Final = 0.1
"""Seconds from a log to the query for the latest block."""
OFTEN: Final = 1.0
"""Seconds between queries while an event waits for later blocks."""
_LISTENING: Final = 3600.0
"""Seconds of one wait for a notification."""


class Heads(Protocol):
    """The methods of the session that a feed uses."""

    async def head(self) -> BlockRef:
        """Return the latest block."""

    async def extension(self, *known: BlockRef) -> Extension | None:
        """Return the end of the chain that has these blocks, or None."""

    def not_extended(self) -> None:
        """Record that no extension showed a chain that is longer than ours."""

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


@dataclass(slots=True)
class PolledHeads:
    """Polled heads, and over a WebSocket the registry's logs.

    A reply to a poll proves that the connection works. A lost subscription shows in the contract's
    revision, or in the next comparison with the contract.
    """

    caller: Caller
    reader: LogReader
    watch: HeadWatch
    monotonic: Callable[[], float]
    heads: Heads
    interval: float
    """Seconds between polls; while something needs heads, it is `OFTEN`."""
    early: PreconfirmedLogs
    subscribes: bool
    _began: asyncio.Event = field(default_factory=asyncio.Event)
    _logged: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by each log."""
    _highest: int = 0
    """The highest block of a log since the last poll..."""
    _announced: float = -math.inf
    """...and the time of that log."""

    async def facts(self) -> AsyncIterator[ChainFact | EarlyFact]:
        """Yield the latest block, then logs until the connection fails. Raises `ChainError`."""
        logs = ""
        if self.subscribes:
            logs = _subscription(await self.caller.call("eth_subscribe", "logs", self.reader.filter))
        yield await self._latest()
        self._began.set()
        if (outcome := await self.early.subscribe()) is not None:
            yield outcome
        while True:
            note = await self.caller.transport.notification(_LISTENING)
            if note is None:
                continue
            if note.subscription != logs:
                if (hint := self.early.fact(note)) is not None:
                    self._logged.set()
                    yield hint
                continue
            event = self.reader.event(note.result)
            if event is not None:
                self._highest = max(self._highest, event.block_number)
                self._announced = self.monotonic()
                self._logged.set()
                yield event

    async def polls(self, needs: HeadNeeds) -> AsyncIterator[BlockRef | Extension]:
        """Yield a head at each interval, after the first fact. Raises `ChainError`."""
        await self._began.wait()
        pause = self.interval
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._logged.wait(), pause)
                await asyncio.sleep(SOON)
            self._logged.clear()
            found = await self._poll(needs.extendable())
            latest = found.latest if isinstance(found, Extension) else found.number
            # A lower block may come from a backend that lags behind the one of the log.
            lags = latest < self._highest and self.monotonic() < self._announced + LAG
            if not lags:
                self._highest = 0
                yield found
            pause = min(OFTEN, self.interval) if lags or needs.needs_heads() else self.interval

    async def _poll(self, tip: BlockRef | None) -> BlockRef | Extension:
        found = None if tip is None else await self.heads.extension(tip)
        if tip is not None and found is not None and found.head.number > tip.number:
            self._watch(found.head)
            return found
        latest = await self._latest()  # an extension never shows the latest block of an idle chain
        if tip is not None and found is None and latest.number > tip.number:
            self.heads.not_extended()
        return latest

    async def _latest(self) -> BlockRef:
        latest = await self.heads.head()
        self._watch(latest)
        return latest

    def _watch(self, latest: BlockRef) -> None:
        now = self.monotonic()
        if self.watch.is_other(latest):
            self.watch.head(latest, now)
        else:
            _check_stalled(self.watch, latest, now)


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
        raise BehindError(
            f"the endpoint has stayed at block {latest.number} for too long: it does not follow its chain"
        )


def _subscription(value: Json) -> str:
    if not isinstance(value, str) or not value:
        raise EndpointError("the endpoint replied to eth_subscribe without a subscription id")
    return value
