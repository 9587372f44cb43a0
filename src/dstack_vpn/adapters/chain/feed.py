"""What an endpoint tells us by itself: heads and logs over WebSocket, heads by polling over HTTP.

Both begin with the latest block, read after the subscriptions stand, so that the first fact says that from
here on nothing is missed. Both run under `watchdog.HeadWatch`: silence is looked into, not trusted.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, Protocol

from dstack_vpn.adapters.chain.caller import LAG, Caller
from dstack_vpn.adapters.chain.faults import UnknownBlockError, UnsupportedError
from dstack_vpn.adapters.chain.fields import parse_header
from dstack_vpn.adapters.chain.jsonrpc import Json, Notification
from dstack_vpn.adapters.chain.logs import LogReader
from dstack_vpn.adapters.chain.ranges import BlockLogs
from dstack_vpn.adapters.chain.watchdog import GRACE, HeadWatch
from dstack_vpn.core.events import LoggedEvent
from dstack_vpn.core.model import BlockRef
from dstack_vpn.errors import EndpointError
from dstack_vpn.ports import ChainFact

_LATE: Final = 0.3
"""Seconds after a head until its logs, if none has come, are asked for."""


class Heads(Protocol):
    """The one thing that a feed asks of its session."""

    async def head(self) -> BlockRef:
        """The latest block."""

    def announced(self, head: BlockRef) -> None:
        """Take note of a head that was announced."""


class Stream:
    """Facts over a WebSocket."""

    def __init__(
        self,
        caller: Caller,
        reader: LogReader,
        watch: HeadWatch,
        monotonic: Callable[[], float],
        heads: Heads,
        *,
        logs: BlockLogs,
    ) -> None:
        self._logs = logs
        self._began = monotonic()
        self._logged: dict[str, None] = {}
        """Hashes of the blocks whose logs came by themselves."""
        self._doubtful: deque[tuple[float, str, float]] = deque()
        """When a block's logs are to be asked for, its hash, and until when it may be unknown."""
        self._transport = caller.transport
        self._caller = caller
        self._reader = reader
        self._watch = watch
        self._monotonic = monotonic
        self._heads = heads
        self._logs_id = self._heads_id = ""

    async def facts(self) -> AsyncIterator[ChainFact]:
        """Heads and logs until the connection fails; raises `ChainError`."""
        self._logs_id = _subscription(await self._caller.call("eth_subscribe", "logs", self._reader.filter))
        self._heads_id = _subscription(await self._caller.call("eth_subscribe", "newHeads"))
        first = await self._heads.head()
        self._watch.head(first, self._monotonic())
        yield first
        while True:
            now = self._monotonic()
            wait = self._watch.wait(now)
            due = self._doubtful[0][0] - now if self._doubtful else wait
            note = await self._transport.notification(min(wait, max(due, 0.0)))
            if note is not None:
                fact = self._fact(note)
            elif due < wait:
                fact = None
                for logged in await self._missed(*self._doubtful.popleft()[1:]):
                    yield logged
            else:
                fact = await self._probe()
            if fact is not None:
                yield fact

    async def _missed(self, block_hash: str, until: float) -> Sequence[LoggedEvent]:
        """The logs of a block, unless some were announced: the log subscription may have begun after it."""
        if block_hash in self._logged:
            return ()
        try:
            return await self._logs.once(block_hash)
        except UnknownBlockError:
            # Perhaps a backend that lags: another question later, so that no announcement waits for this one.
            if self._monotonic() < until:
                self._doubtful.append((self._monotonic() + _LATE, block_hash, until))
            return ()
        except UnsupportedError:
            return ()  # the audit will see

    def _doubt(self, head: BlockRef, bloom: Json) -> None:
        """Two subscriptions may be served by two backends: at first, the one for logs may be ahead.

        An all-zero bloom filter says that a block has no logs at all.
        """
        now = self._monotonic()
        empty = isinstance(bloom, str) and not bloom.removeprefix("0x").strip("0")
        if now - self._began < LAG and not empty:
            self._doubtful.append((now + _LATE, head.hash, now + LAG))

    def _fact(self, note: Notification) -> ChainFact | None:
        if note.subscription == self._heads_id:
            head = parse_header(note.result)
            self._heads.announced(head)
            self._watch.head(head, self._monotonic())
            self._doubt(head, note.result.get("logsBloom"))
            return head
        if note.subscription != self._logs_id:
            return None
        event = self._reader.event(note.result)
        if event is not None and self._doubtful:
            self._logged[event.block_hash] = None
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
