"""Notifications of an endpoint: heads and logs over WebSocket, heads by polling over HTTP.

The first fact of both is the latest block, read after the subscriptions were confirmed. No later
event is missed. Both run under `watchdog.HeadWatch`, which probes an endpoint that sends nothing.
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
    ) -> None:
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

    async def facts(self) -> AsyncIterator[ChainFact | Unannounced]:
        """Yield heads and logs until the connection fails. Raises `ChainError`."""
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
        """Return True if the logs of a block may not be announced.

        Two backends may serve the two subscriptions. At first, the backend for logs may be ahead of
        the one for heads. An all-zero bloom filter proves that a block has no logs.
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
