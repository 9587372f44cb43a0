"""The registry's logs, each checked against its block.

One URL may stand for several backends that follow the chain at different speeds, and each call may
reach another one. A backend that lags replies to ``eth_getLogs`` by numbers with ``[]`` for blocks
that it does not have, so an empty reply by numbers proves nothing about the newest blocks.
Therefore:

* The newest `TAIL` blocks are queried by their hashes (EIP-234). A backend that lags does not know
  the hash. That is an error, and the call is repeated until a backend knows it.
* Older blocks are queried by ranges. Any failure of a range of several blocks makes it smaller
  within the same call, whatever the endpoint's error message.
* The part of a long range that was read is kept in the endpoint's memory, with the hash of its last
  block, so that the next session continues from there.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dstack_vpn.adapters.chain.caller import LAG, Caller
from dstack_vpn.adapters.chain.faults import UnknownBlockError, UnsupportedError
from dstack_vpn.adapters.chain.fields import parse_header
from dstack_vpn.adapters.chain.jsonrpc import Json
from dstack_vpn.adapters.chain.logs import LogReader
from dstack_vpn.adapters.chain.memory import EndpointCapabilities, Progress
from dstack_vpn.core.chain.events import LoggedEvent
from dstack_vpn.core.model import BlockRef
from dstack_vpn.errors import ChainError, EndpointError, LogsError, RangeError, RetryError

TAIL: Final = 32
"""The number of newest blocks that are queried by hash. A backend lags by less (5 s of 200 ms
blocks)."""
DEADLINE: Final = 30.0
"""Seconds for the logs of one block."""
RANGE_DEADLINE: Final = 12.0
"""Seconds for the logs of several blocks. After that, a smaller range is requested."""
_RANGE_ATTEMPTS: Final = 2
_PAUSE: Final = 0.05
"""Seconds between two queries for a block that a backend does not have yet."""
_ROUNDS: Final = 40
"""The limit of rounds of queries for headers by number, before they are queried by hash."""
_CHECKPOINT: Final = 8
"""Ranges between two checkpoints of the progress."""
_PATIENT_CALLS: Final = 100
"""The limit of calls for one gap. Beyond it, the state is read if the contract is enumerable."""


@dataclass(frozen=True, slots=True)
class BlockLogs:
    """Reads the registry's logs through one endpoint."""

    caller: Caller
    reader: LogReader
    memory: EndpointCapabilities
    enumerates: bool
    """True if the state can be read instead of many logs."""

    async def up_to(self, first: int, last: BlockRef) -> list[LoggedEvent] | None:
        """Return the events from ``first`` to ``last``. None if ``last`` is off the chain.

        Raises `LogsError` if the endpoint serves other calls but no logs, or the logs of too few
        blocks at once. Raises other `ChainError` as the calls do.
        """
        tail_from = max(first, last.number - TAIL + 1)
        if first < tail_from and self._too_many(tail_from - first):
            raise LogsError(f"the endpoint serves the logs of only {self.memory.span.size} blocks at once")
        try:
            chain = await self._links(tail_from, last)
            if chain is None:
                return None
            older = await self.between(first, tail_from - 1) if first < tail_from else []
            newer = await self._by_hashes(chain)
        except (EndpointError, RangeError, RetryError) as error:
            if self.caller.transport.failure is not None or isinstance(error, LogsError):
                raise
            raise LogsError(str(error)) from error
        return None if newer is None else [*older, *newer]

    def _too_many(self, blocks: int) -> bool:
        return self.enumerates and blocks > _PATIENT_CALLS * self.memory.span.size

    # -- by hash -----------------------------------------------------------------------------------

    async def _links(self, first: int, last: BlockRef) -> list[BlockRef] | None:
        """Return the blocks from ``first`` to ``last``, linked by parent hashes.

        Returns None if ``last`` was replaced.
        """
        answers = await self._headers(list(range(first, last.number)))
        chain = [last]
        for answer in reversed(answers):
            block = None if answer is None else parse_header(answer)
            if block is None or block.hash != chain[-1].parent_hash:
                # A backend that lags or follows another fork sent this reply.
                block = await self._parent(chain[-1])
            if block is None:
                return None
            chain.append(block)
        return chain[::-1]

    async def _headers(self, numbers: Sequence[int]) -> list[Json]:
        """Return headers by number. null: no backend returned it in `_ROUNDS` rounds."""
        found: dict[int, Json] = {}
        for turn in range(_ROUNDS):
            missing = [number for number in numbers if found.get(number) is None]
            if not missing:
                break
            if turn:
                await asyncio.sleep(_PAUSE)
            calls = [("eth_getBlockByNumber", (hex(number), False)) for number in missing]
            found.update(zip(missing, await self.caller.call_many(calls), strict=True))
        return [found[number] for number in numbers]

    async def _parent(self, child: BlockRef) -> BlockRef | None:
        """Return a block's parent by hash. None if the endpoint has replaced the child."""
        async for _ in self._lag_attempts():
            answer = await self.caller.call("eth_getBlockByHash", child.parent_hash, False)
            if answer is not None:
                block = parse_header(answer)
                if block.hash != child.parent_hash:
                    raise EndpointError("the endpoint replied with another block than the requested one")
                return block
            if await self._replaced(child):
                return None
        raise EndpointError(f"the endpoint does not know the parent of block {child.number}")

    async def _by_hashes(self, chain: Sequence[BlockRef]) -> list[LoggedEvent] | None:
        """Return the events of these linked blocks. None if they were replaced."""
        if not self.memory.by_hash:
            return await self._by_numbers(chain)
        found: dict[str, list[LoggedEvent]] = {}
        async for _ in self._lag_attempts():
            missing = [block for block in chain if block.hash not in found]
            try:
                await self._take(missing, found)
            except UnsupportedError:
                self.memory.by_hash = False
                return await self._by_numbers(chain)
            if len(found) == len(chain):
                return [event for block in chain for event in found[block.hash]]
            if await self._replaced(chain[-1]):
                return None
        raise EndpointError(f"the endpoint does not know block {chain[-1].number}, which it has announced")

    async def _take(self, blocks: Sequence[BlockRef], found: dict[str, list[LoggedEvent]]) -> None:
        """Request the logs of blocks, except blocks that the backend does not know."""
        calls = [("eth_getLogs", ({**self.reader.filter, "blockHash": b.hash},)) for b in blocks]
        answers = await self.caller.call_each(calls, deadline=DEADLINE, lag=0.2, attempts=2)
        for block, answer in zip(blocks, answers, strict=True):
            if isinstance(answer, UnknownBlockError):
                continue
            if isinstance(answer, ChainError):
                raise answer
            found[block.hash] = self._of_block(block.hash, answer)

    async def block(self, block_hash: str) -> list[LoggedEvent]:
        """Return all events of one block (EIP-234), from any backend. Raises `ChainError`."""
        log_filter = {**self.reader.filter, "blockHash": block_hash}
        answer = await self.caller.call("eth_getLogs", log_filter, deadline=DEADLINE, lag=LAG)
        return self._of_block(block_hash, answer)

    def _of_block(self, block_hash: str, answer: Json) -> list[LoggedEvent]:
        events = self.reader.events(answer)
        if any(event.block_hash != block_hash for event in events):
            raise EndpointError("the endpoint replied with logs of another block")
        return events

    async def _by_numbers(self, chain: Sequence[BlockRef]) -> list[LoggedEvent] | None:
        """Return the events of these blocks without EIP-234. None if the last one was replaced."""
        events = await self.between(chain[0].number, chain[-1].number)
        hashes = {block.number: block.hash for block in chain}
        if any(hashes[event.block_number] != event.block_hash for event in events):
            return None
        return None if await self._replaced(chain[-1]) else events

    async def _replaced(self, block: BlockRef) -> bool:
        """Return True if the endpoint has another block at that height."""
        answer = await self.caller.call("eth_getBlockByNumber", hex(block.number), False)
        return answer is not None and parse_header(answer).hash != block.hash

    @staticmethod
    async def _lag_attempts() -> AsyncIterator[None]:
        """Yield for each attempt, with pauses between them, for as long as a backend may lag."""
        for turn in range(int(LAG / _PAUSE)):
            if turn:
                await asyncio.sleep(_PAUSE)
            yield

    # -- by range ----------------------------------------------------------------------------------

    async def between(self, first: int, last: int) -> list[LoggedEvent]:
        """Return all events of an inclusive range, in as few calls as the endpoint allows.

        Raises `ChainError`.
        """
        begun = first
        events = await self._resumed(first, last)
        if self.memory.progress is not None and events is not None:
            first = self.memory.progress.until.number + 1
        found: dict[tuple[str, int], LoggedEvent] = {(x.block_hash, x.log_index): x for x in events or ()}
        ranges = 0
        while first <= last:
            until = min(last, first + self.memory.span.size - 1)
            part = await self._smaller(first, until)
            if part is None:
                continue
            found.update({(event.block_hash, event.log_index): event for event in part})
            first, ranges = until + 1, ranges + 1
            if ranges % _CHECKPOINT == 0 and first <= last:
                await self._keep(begun, until, found.values())
        return list(found.values())

    async def _smaller(self, first: int, until: int) -> list[LoggedEvent] | None:
        """Return the events of one range. None if it failed and a smaller one is to be tried."""
        span, blocks = self.memory.span, until - first + 1
        try:
            found = await self._range(first, until)
        except ChainError as error:
            if isinstance(error, RangeError):
                span.refused(blocks)
            else:
                span.failed(blocks)
            if blocks == 1 or self.caller.transport.failure is not None:
                raise
            return None
        if any(not first <= event.block_number <= until for event in found):
            raise EndpointError(f"the endpoint replied with logs outside of the blocks {first} to {until}")
        span.served()
        return found

    async def _range(self, first: int, last: int) -> list[LoggedEvent]:
        log_filter = {**self.reader.filter, "fromBlock": hex(first), "toBlock": hex(last)}
        one = first == last
        answer = await self.caller.call(
            "eth_getLogs",
            log_filter,
            deadline=DEADLINE if one else RANGE_DEADLINE,
            attempts=4 if one else _RANGE_ATTEMPTS,
        )
        return self.reader.events(answer)

    async def _keep(self, first: int, until: int, events: Iterable[LoggedEvent]) -> None:
        answer = await self.caller.call("eth_getBlockByNumber", hex(until), False)
        if answer is not None:
            self.memory.progress = Progress(first, parse_header(answer), tuple(events))

    async def _resumed(self, first: int, last: int) -> list[LoggedEvent] | None:
        """Return an earlier session's logs of this range. None if they are missing or stale."""
        kept, self.memory.progress = self.memory.progress, None
        if kept is None or not kept.first <= first <= kept.until.number < last:
            return None
        answer = await self.caller.call("eth_getBlockByNumber", hex(kept.until.number), False)
        if answer is None or parse_header(answer).hash != kept.until.hash:
            return None
        self.memory.progress = kept
        return [event for event in kept.events if event.block_number >= first]
