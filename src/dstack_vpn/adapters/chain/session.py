"""A checked connection to one endpoint, over either transport. Implements `ports.ChainSession`.

The parts are `identity` (checks the chain), `feed` (new heads and logs), `ranges` (past logs),
`state` (tokens at a pinned block) and `caller` (retries, deadlines, statistics).
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

from dstack_vpn.adapters.chain.caller import LAG, Caller
from dstack_vpn.adapters.chain.deployment import find_first_block
from dstack_vpn.adapters.chain.extension import encode, parse
from dstack_vpn.adapters.chain.faults import UnknownBlockError, UnsupportedError
from dstack_vpn.adapters.chain.feed import PolledHeads, Subscription, poll
from dstack_vpn.adapters.chain.fields import data, parse_header
from dstack_vpn.adapters.chain.http import open_http
from dstack_vpn.adapters.chain.identity import Target, identify
from dstack_vpn.adapters.chain.logs import LogReader
from dstack_vpn.adapters.chain.memory import EndpointCapabilities
from dstack_vpn.adapters.chain.method_stats import MethodStats
from dstack_vpn.adapters.chain.preconfirmed import PreconfirmedLogs, with_outcome
from dstack_vpn.adapters.chain.ranges import BlockLogs
from dstack_vpn.adapters.chain.state import StateReader
from dstack_vpn.adapters.chain.tip import SeenHeads
from dstack_vpn.adapters.chain.traffic import Traffic
from dstack_vpn.adapters.chain.transport import Transport
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.adapters.chain.watchdog import HeadWatch
from dstack_vpn.adapters.chain.websocket import open_websocket
from dstack_vpn.core.access.early import EarlySubscription
from dstack_vpn.core.chain.agreement import Revision
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.events import LoggedEvent, PolicyRead, TokenState
from dstack_vpn.core.chain.extension import Extension
from dstack_vpn.core.model import BlockRef, ChainIdentity, TokenId
from dstack_vpn.errors import CallRevertedError, ChainError, EndpointError, RangeError, RetryError
from dstack_vpn.ports import ChainFact, EarlyFact, HeadNeeds, RegistryAbi, Unannounced


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Settings for following a chain, shared by all endpoints."""

    block_time: float | None = None
    """Seconds between blocks if the interval is fixed. None: learn it, and treat silence as an idle
    chain."""
    poll_interval: float = 1.0
    """Seconds between queries for the latest block over HTTP, if the contract has a revision."""
    head_interval: float | None = None
    """The same over WebSocket, and without a revision. None: heads are announced over WebSocket."""
    early: str | None = None
    """The name of the subscription to pre-confirmed logs. None: they are not wanted."""
    start_block: int | None = None
    """The contract's first block, if it is configured."""
    monotonic: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random
    """Returns a uniform number in [0, 1), for the pauses between retries."""


_PAUSE: Final = 0.1
"""Seconds between two queries for a block that a backend does not have yet."""
_PATIENCE: Final = 8
"""Replies in a row without our block after which the endpoint is not asked for an `Extension`."""
_REFUSED: Final = 3600.0
"""Seconds without that after a refusal."""
_FAILED: Final = 300.0
"""Seconds without that after another failure."""


class RpcSession:
    """See `ports.ChainSession`. Created by `open_session`."""

    def __init__(
        self,
        caller: Caller,
        identity: ChainIdentity,
        abi: RegistryAbi,
        memory: EndpointCapabilities,
        settings: SessionSettings,
    ) -> None:
        self.name = caller.transport.url.name
        self.identity = identity
        self.abi = abi
        self.rereads = abi.rereads
        self.announces_logs = caller.transport.url.streams
        self.announces_heads = self.announces_logs and settings.head_interval is None
        self._caller = caller
        self._memory = memory
        self._settings = settings
        self._reader = LogReader(self.name, identity.contract, abi)
        self._logs = BlockLogs(caller, self._reader, memory, enumerates=bool(abi.page_size))
        self._seen = SeenHeads()
        self._state = StateReader(caller, abi, identity.contract, memory, settings.monotonic)
        self._polled = self._polled_heads()

    @property
    def stats(self) -> Mapping[str, MethodStats]:
        """Call counts, errors and latencies by RPC method, of all sessions with this endpoint."""
        return self._caller.stats

    def facts(self) -> AsyncIterator[ChainFact | Unannounced | EarlyFact]:
        """See `ports.ChainSession.facts`.

        The first fact is the latest block, read after the subscriptions were confirmed. Only one
        iteration may run at a time, because there is one queue of notifications. Over HTTP all
        facts are heads, and numbers may be skipped.
        """
        monotonic = self._settings.monotonic
        if self._polled is not None:
            facts = self._polled.facts()
            early = self._settings.early is None or self.announces_logs
            return facts if early else with_outcome(facts, self._no_websocket())
        watch = HeadWatch(self._settings.block_time, monotonic())
        if self.announces_logs:
            feed = self._caller, self._reader, watch, monotonic, self
            return Subscription(*feed, early=self._preconfirmed()).facts()
        heads = poll(watch, self, monotonic, self._settings.poll_interval)
        return heads if self._settings.early is None else with_outcome(heads, self._no_websocket())

    async def polls(self, needs: HeadNeeds) -> AsyncIterator[BlockRef | Extension]:
        """See `ports.ChainSession.polls`."""
        if self._polled is not None:
            async for found in self._polled.polls(needs):
                yield found

    def _polled_heads(self) -> PolledHeads | None:
        settings, subscribes = self._settings, self.announces_logs
        if (interval := settings.head_interval) is None:
            return None
        if not subscribes and self.abi.revision_call is not None:
            interval = settings.poll_interval
        watch = HeadWatch(settings.block_time, settings.monotonic())
        feed = self._caller, self._reader, watch, settings.monotonic, self
        return PolledHeads(*feed, interval, self._preconfirmed(), subscribes=subscribes)

    async def subscribes_early(self) -> EarlySubscription | None:
        """Subscribe to pre-confirmed events; None if they are not wanted."""
        if self._settings.early is not None and not self.announces_logs:
            return self._no_websocket()
        return await self._preconfirmed().subscribe()

    def _preconfirmed(self) -> PreconfirmedLogs:
        kind = self._settings.early if self.announces_logs else None
        return PreconfirmedLogs(self._caller, self._reader, kind)

    def _no_websocket(self) -> EarlySubscription:
        return EarlySubscription(self.name, "it is used over HTTP")

    async def head(self) -> BlockRef:
        """See `ports.ChainSession.head`.

        A backend that lags may return an older block than another one did. An older block is
        returned only if no backend returns the newer one for as long as a backend may lag.
        """
        head = await self._latest()
        ends = self._settings.monotonic() + LAG
        while (highest := self._seen.highest) is not None and self._seen.may_lag(head):
            known = await self._block(hex(highest.number))
            if known is not None and known.hash == highest.hash:
                return highest
            if known is not None or self._settings.monotonic() >= ends:
                break
            await asyncio.sleep(_PAUSE)
            head = await self._latest()
        self._seen.note(head)
        return head

    async def _latest(self) -> BlockRef:
        return parse_header(await self._caller.call("eth_getBlockByNumber", "latest", False))

    def announced(self, head: BlockRef) -> None:
        """Record a head that the endpoint announced."""
        if not self._seen.may_lag(head):
            self._seen.note(head)

    async def extension(self, *known: BlockRef) -> Extension | None:
        """See `ports.ChainSession.extension`."""
        memory, now = self._memory, self._settings.monotonic()
        if now < memory.extension_after:
            return None
        code = encode(known, self.identity.contract, self.abi.revision_call)
        try:
            reply = await self._caller.call("eth_call", {"data": "0x" + code.hex()}, "latest")
            found = parse(data(reply, "code output"), known)
        except (CallRevertedError, RangeError, UnsupportedError):
            memory.extension_after = now + _REFUSED  # headers show the same, in more bytes
            return None
        except RetryError:
            raise
        except ChainError:
            # Some endpoints close the connection, or never reply. The next session must not ask.
            memory.extension_after = now + _FAILED
            raise
        if found is None:
            return None
        memory.not_extended = 0
        self.announced(found.head)
        if self.abi.revision_call is None and not self.announces_logs:
            return replace(found, revision=await self.revision(found.head))
        return found

    def not_extended(self) -> None:
        """Record that no extension showed a chain that is longer than ours.

        After several in a row the opcodes have another meaning, and no more are requested.
        """
        self._memory.not_extended += 1
        if self._memory.not_extended >= _PATIENCE:
            self._memory.not_extended = 0
            self._memory.extension_after = self._settings.monotonic() + _REFUSED

    async def header(self, number: int) -> BlockRef | None:
        """See `ports.ChainSession.header`."""
        block = await self._block(hex(number))
        ends = self._settings.monotonic() + LAG
        while block is None and self._seen.has(number) and self._settings.monotonic() < ends:
            await asyncio.sleep(_PAUSE)  # the reply came from a backend that lags
            block = await self._block(hex(number))
        if block is not None and block.number != number:
            raise EndpointError(
                f"the endpoint replied with block {block.number} to a query for block {number}"
            )
        return block

    async def finalized(self) -> BlockRef | None:
        """See `ports.ChainSession.finalized`."""
        try:
            return await self._block("finalized")
        except EndpointError:
            if self._caller.transport.failure is not None:
                raise
            return None

    async def _block(self, which: str) -> BlockRef | None:
        """Return a block by number or tag, or None if the endpoint does not have it."""
        try:
            block = await self._caller.call("eth_getBlockByNumber", which, False)
        except UnknownBlockError:
            return None
        return None if block is None else parse_header(block)

    async def events(self, first: int, last: int) -> list[LoggedEvent]:
        """See `ports.ChainSession.events`."""
        return await self._logs.between(first, last)

    async def events_up_to(self, first: int, last: BlockRef) -> list[LoggedEvent] | None:
        """See `ports.ChainSession.events_up_to`."""
        return await self._logs.up_to(first, last)

    async def block_events(self, block_hash: str) -> list[LoggedEvent]:
        """See `ports.ChainSession.block_events`."""
        try:
            return await self._logs.block(block_hash)
        except UnknownBlockError as error:
            raise EndpointError(f"the endpoint does not know block {block_hash}") from error

    async def read_tokens(self, tokens: Sequence[TokenId], at: BlockRef) -> list[TokenState]:
        """See `ports.ChainSession.read_tokens`. The ABI decides the calls per token: 1 for ours."""
        return await self._state.tokens(tokens, at)

    async def read_all(self, at: BlockRef) -> list[TokenState] | None:
        """See `ports.ChainSession.read_all`."""
        return await self._state.all(at)

    async def revision(self, at: BlockRef) -> Revision | None:
        """See `ports.ChainSession.revision`."""
        return await self._state.revision(at)

    async def read_contract(self, at: BlockRef) -> ContractState | None:
        """See `ports.ChainSession.read_contract`."""
        return await self._state.contract_state(at)

    async def read_policy(self, at: BlockRef) -> PolicyRead:
        """See `ports.ChainSession.read_policy`."""
        return await self._state.policy(at)

    async def first_block(self) -> int:
        """See `ports.ChainSession.first_block`. It is 0 if the history is incomplete."""
        if self._settings.start_block is not None:
            return self._settings.start_block
        if self._memory.first_block is None:
            head = await self.head()
            self._memory.first_block = await find_first_block(
                self._caller, self.identity.contract, head.number
            )
        return self._memory.first_block


def open_transport(url: RpcUrl, traffic: Traffic | None = None) -> AbstractAsyncContextManager[Transport]:
    """Connect over WebSocket or HTTP, as the URL's scheme requires."""
    return open_websocket(url, traffic) if url.streams else open_http(url, traffic)


@asynccontextmanager
async def open_session(
    url: RpcUrl, target: Target, memory: EndpointCapabilities, settings: SessionSettings
) -> AsyncIterator[RpcSession]:
    """Connect and check the chain. Raises `EndpointError`, `RetryError` or `WrongChainError`."""
    async with open_transport(url, memory.traffic) as transport:
        caller = Caller(transport, memory.calls, monotonic=settings.monotonic, draw=settings.draw)
        identity, abi = await identify(caller, target)
        yield RpcSession(caller, identity, abi, memory, settings)
