"""An endpoint's notifications: heads and logs over WebSocket, heads by polling over HTTP.

Both begin with the latest block, read after the subscriptions stand, so that the first fact says that from
here on nothing is missed. Both run under `watchdog.HeadWatch`: silence is looked into, not trusted.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from dstack_vpn.adapters.chain.caller import LAG, Caller
from dstack_vpn.adapters.chain.fields import parse_header
from dstack_vpn.adapters.chain.jsonrpc import Json, Notification
from dstack_vpn.adapters.chain.logs import LogReader
from dstack_vpn.adapters.chain.watchdog import GRACE, HeadWatch
from dstack_vpn.core.model import BlockRef
from dstack_vpn.errors import EndpointError
from dstack_vpn.ports import ChainFact, Unannounced


class Heads(Protocol):
    """The one thing that a feed asks of its session."""

    async def head(self) -> BlockRef:
        """The latest block."""

    def announced(self, head: BlockRef) -> None:
        """Take note of a head that was announced."""


class Subscription:
    """Facts over a WebSocket."""

    def __init__(
        self,
        caller: Caller,
        reader: LogReader,
        watch: HeadWatch,
        monotonic: Callable[[], float],
        heads: Heads,
    ) -> None:
        self._began = monotonic()
        self._logged = ""
        """The block of the last log, by its hash."""
        self._transport = caller.transport
        self._caller = caller
        self._reader = reader
        self._watch = watch
        self._monotonic = monotonic
        self._heads = heads
        self._logs_id = self._heads_id = ""

    async def facts(self) -> AsyncIterator[ChainFact | Unannounced]:
        """Heads and logs until the connection fails; raises `ChainError`."""
        self._logs_id = _subscription(await self._caller.call("eth_subscribe", "logs", self._reader.filter))
        self._heads_id = _subscription(await self._caller.call("eth_subscribe", "newHeads"))
        first = await self._heads.head()
        self._watch.head(first, self._monotonic())
        yield first
        while True:
            note = await self._transport.notification(self._watch.wait(self._monotonic()))
            fact = await self._probe() if note is None else self._fact(note)
            if fact is not None:
                yield fact
            if isinstance(fact, BlockRef) and note is not None and self._is_doubtful(fact, note):
                yield Unannounced(fact)

    def _is_doubtful(self, head: BlockRef, note: Notification) -> bool:
        """Return True if a block's logs may not be announced.

        Two subscriptions may be served by two backends: at first, the one for logs may be ahead. An all-zero
        bloom filter says that a block has no logs at all.
        """
        bloom = note.result.get("logsBloom")
        empty = isinstance(bloom, str) and not bloom.removeprefix("0x").strip("0")
        return self._monotonic() - self._began < LAG and not empty and head.hash != self._logged

    def _fact(self, note: Notification) -> ChainFact | None:
        if note.subscription == self._heads_id:
            head = parse_header(note.result)
            self._heads.announced(head)
            self._watch.head(head, self._monotonic())
            return head
        if note.subscription != self._logs_id:
            return None
        event = self._reader.event(note.result)
        if event is not None:
            self._logged = event.block_hash
        return event

    async def _probe(self) -> ChainFact | None:
        """Ask a silent endpoint for its latest block; the fact that came meanwhile, if one did."""
        latest = await self._heads.head()
        if self._watch.is_newer(latest):
            note = await self._transport.notification(GRACE)
            if note is None:
                raise EndpointError(
                    f"the endpoint is at block {latest.number}, but does not announce its blocks any more"
                )
            return self._fact(note)
        now = self._monotonic()
        _check_stalled(self._watch, latest, now)
        self._watch.idle(now)
        if not self._watch.is_other(latest):
            return None
        self._watch.head(latest, now)  # a reorg to no greater height, which anvil does not announce
        return latest


async def poll(
    watch: HeadWatch,
    heads: Heads,
    monotonic: Callable[[], float],
    interval: float,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[ChainFact]:
    """Heads by asking every ``interval`` seconds; raises `ChainError`."""
    while True:
        latest = await heads.head()
        now = monotonic()
        # A load balancer's backend that lags is no reorg: a lower block is news only when it stays.
        if watch.is_other(latest) and (not watch.is_lower(latest) or not watch.wait(now)):
            watch.head(latest, now)
            yield latest
        else:
            _check_stalled(watch, latest, now)
        await sleep(interval)


def _check_stalled(watch: HeadWatch, latest: BlockRef, now: float) -> None:
    if watch.is_stalled(now):
        raise EndpointError(
            f"the endpoint has been at block {latest.number} for too long: it does not follow its chain"
        )


def _subscription(value: Json) -> str:
    if not isinstance(value, str) or not value:
        raise EndpointError("the endpoint answered eth_subscribe without a subscription id")
    return value
