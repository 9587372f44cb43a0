"""One session with one RPC endpoint, driven by the core's follower.

The endpoint's notifications and replies pass through one bounded queue into the follower, in the
order of arrival. Tasks of the session's own group fetch the data that the follower asks for. When
the session fails, all of its tasks end.
"""

import asyncio
import math
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import structlog

from dstack_vpn.core.access.early import EarlySubscription, Preconfirmed
from dstack_vpn.core.chain.agreement import Agreement
from dstack_vpn.core.chain.commands import (
    Advanced,
    Command,
    Fetch,
    FetchEvents,
    FetchHead,
    FetchHeader,
    Leave,
    Reload,
)
from dstack_vpn.core.chain.contract import ContractState, Policy
from dstack_vpn.core.chain.events import (
    ContractRead,
    LoggedEvent,
    OwnerKeyUpdated,
    Reading,
    TokenState,
    token_of,
)
from dstack_vpn.core.chain.extension import Extension
from dstack_vpn.core.chain.registry import contradicts
from dstack_vpn.core.model import BlockRef, TokenId
from dstack_vpn.daemon.chain.bootstrap import SAFE_DEPTH, bootstrap, check_genesis, final_block, in_time
from dstack_vpn.daemon.chain.state import Began, ChainState
from dstack_vpn.daemon.observe.changes import publish_advanced
from dstack_vpn.errors import BehindError, ChainError, EndpointError, LogsError
from dstack_vpn.ports import ChainFact, ChainSession, EarlyFact, Unannounced
from dstack_vpn.slices import slices

_log = structlog.get_logger(component="chain")

QUEUE: Final = 4096
"""The limit of queued facts and replies; when it is reached, reading from the endpoint pauses."""
LATE: Final = 0.15
"""Seconds to wait for the logs of a new head before they are requested."""
ANNOUNCED: Final = 5.5
"""Seconds in which an event that a query has found must be announced as well."""
SETTLES: Final = 20
"""The shortest time between queries for finality, in intervals of polled heads."""
SLICE: Final = 250
"""The number of tokens that are compared without yielding to the event loop."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """The result of a fetch."""

    fetch: Fetch
    result: BlockRef | list[LoggedEvent] | None


@dataclass(frozen=True, slots=True)
class _Readings:
    """States that were read as of a block."""

    at: BlockRef
    observed: Sequence[Reading]
    audit: bool = False
    """They are the differences that a comparison of the whole registry has found."""


Item: TypeAlias = ChainFact | Extension | Unannounced | EarlyFact | _Answer | _Readings | Reload | ChainError


@dataclass(slots=True)
class SessionDriver:
    """The state and the tasks of one connection to one endpoint."""

    state: ChainState
    session: ChainSession
    group: asyncio.TaskGroup
    queue: asyncio.Queue[Item] = field(default_factory=lambda: asyncio.Queue(QUEUE))
    _compared: BlockRef | None = None
    """The block up to which the whole registry was compared."""
    _agreement: Agreement | None = None
    """The last comparison of the whole registry, if it found no difference.

    It is the endpoint's own, so a session with another endpoint begins with a full reading.
    """
    _settle: asyncio.Event = field(default_factory=asyncio.Event)
    _over: asyncio.Event = field(default_factory=asyncio.Event)
    _error: ChainError | None = None
    """The error that the session ends with."""
    _subscribed: bool = False
    """Set after the first head: the endpoint announces only the logs of later blocks."""
    _announced: deque[str] = field(default_factory=lambda: deque(maxlen=64))
    """The hashes of the blocks of the last announced logs."""
    _settled: float = -math.inf
    """The monotonic time of the last query for finality."""
    _audited: float = 0.0
    """The monotonic time of the last audit."""
    _audit_now: asyncio.Event = field(default_factory=asyncio.Event)
    _contradicted: Agreement | None = None
    """The last comparison that the revision of an `Extension` has contradicted: a change that was
    not announced."""
    _read_after: str = ""
    """The hash of the block at which tokens were last read again."""
    _read_there: set[TokenId] = field(default_factory=set)
    """The tokens that were read there; further logs of that block need no other reading of them."""
    _asked_contract: bool = False
    """Set after the contract's own state was requested: some contracts have none."""
    _completing: bool = False
    """Set while the contract's own state or the policy is read."""
    _completed: tuple[str, Policy | None] = ("", None)
    """The hash of the block at which it was last read, and the policy then."""

    async def pump(self) -> None:
        """Move the endpoint's notifications into the queue; raises `EndpointError` at their end."""
        async for fact in self.session.facts():
            if isinstance(fact, BlockRef):
                self.state.lag.shown(self.session.name, fact.number, self.state.clock.monotonic())
            await self.queue.put(fact)
        raise EndpointError("the endpoint has ended the subscription")

    async def pump_polls(self) -> None:
        """Move polled heads into the queue, beside the notifications: these do not wait for a poll.

        Raises `ChainError`.
        """
        async for found in self.session.polls(self.state):
            head = found if isinstance(found, BlockRef) else found.head
            self.state.lag.shown(self.session.name, head.number, self.state.clock.monotonic())
            await self.queue.put(found)

    async def begin(self) -> None:
        """Bring the registry to the session's head, with the logs since our tip if possible.

        Without a tip, or if our blocks are discredited, the whole registry is read.
        """
        follower = self.state.follower
        follower.subscribed_from(None)
        head = await self._head()
        self.state.note_head(head)
        if follower.tip is None or self.state.discredited:
            await bootstrap(self.state, self.session, head)
            return
        commands = follower.receive(head)
        await self._obey(commands, self.state.clock.monotonic())
        if not follower.walking:
            self.state.connected(self.session.name)

    async def drive(self) -> None:
        """Feed the queue's items to the follower. Raises the `ChainError` that ends the session."""
        self._complete()
        item = await self.queue.get()
        while True:
            seen = self.state.clock.monotonic()
            if isinstance(item, ChainError):
                raise item
            commands = self._feed(item)
            await self._obey(commands, seen)
            if commands and isinstance(item, _Readings) and item.audit and not self.session.announces_heads:
                # The subscription may be lost. With announced heads, the next head would show it.
                raise EndpointError(f"{self.session.name} has not announced a change of the registry")
            if isinstance(item, Extension):
                await self._audit_by(item)
            self._complete()
            if self.state.problem is not None and not self.state.follower.walking:
                self.state.connected(self.session.name)
            # Without a pause: events that arrive together reach the device together, so that the
            # mass removal guard counts all of them, and a token that two of them name is read once.
            item = await self.queue.get()

    def _feed(
        self, item: ChainFact | Extension | Unannounced | EarlyFact | _Answer | _Readings | Reload
    ) -> list[Command]:
        match item:
            case Reload():
                self.state.follower.abandon()
                return [item]
            case _Answer():
                return self._answered(item)
            case _Readings(at, observed):
                return self._take_reading(at, observed)
            case BlockRef():
                self.state.note_head(item)
                if not self._subscribed and self.session.announces_logs:
                    self._subscribed = True
                    polled = not self.session.announces_heads
                    self.state.follower.subscribed_from(item.number, polled=polled)
                return self.state.follower.receive(item)
            case Extension():
                return self._extended(item)
            case LoggedEvent():
                self._announced.append(item.block_hash)
                return self.state.follower.receive(item)
            case Preconfirmed() | EarlySubscription():
                self.state.members.hinted(item)
                return []
            case Unannounced(block):
                self.group.create_task(self._fetch_unannounced(block), name="chain unannounced logs")
                return []

    def _answered(self, answer: _Answer) -> list[Command]:
        commands = self.state.follower.fetched(answer.fetch, answer.result)
        if self._contradicted is not None and self._contradicted is self._agreement:
            self._expect_announcement(commands)
        return commands

    async def resync_forever(self) -> None:
        """Compare the whole registry with the contract at every interval, until cancelled."""
        while True:
            await self._until_resync()
            try:
                await self.resync()
            except ChainError as error:
                await self.queue.put(error)

    async def _until_resync(self) -> None:
        """Wait for an interval since the last audit, or until one is due now.

        A budget may exceed the interval, and a new day ends that.
        """
        self._audited = self.state.clock.monotonic()
        self._audit_now.clear()
        while (seconds := self._until_audit()) > 0 and not self._audit_now.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._audit_now.wait(), min(seconds, self.state.resync_interval))

    def _until_audit(self) -> float:
        state = self.state
        return state.until_resync(state.clock.monotonic() - self._audited, state.resync_interval)

    async def resync(self) -> None:
        """Compare the registry at our tip, then apply finality. Raises `ChainError`.

        If neither the contract nor our registry has changed since the last comparison, which found
        no difference, the contract's revision is all that is read.
        """
        follower, state = self.state.follower, self.state
        tip, ours = follower.tip, follower.registry
        if tip is None or follower.walking:
            return
        last, self._agreement = self._agreement, None
        revision = await in_time(self.session.name, self.session.revision(tip))
        again = None
        if last is not None and last.covers(ours) and (last.is_root or follower.stands_on(last.at)):
            again = last.repeated(tip, revision)
        if again is not None:
            self._agreement = again
        # The same object: our registry did not change during the reading, so it was compared.
        elif await self._compare(tip) and revision is not None and follower.registry is ours:
            self._agreement = Agreement.after(last, tip, revision, ours)
        if again is None or follower.timeline.events:
            await self.settle(tip)
        else:  # no event waits for finality
            state.compared()
            await state.changed.put(Began())
        if state.members.quorum is None:
            state.members.confirmed()

    # -- extensions --------------------------------------------------------------------------------

    def _extended(self, found: Extension) -> list[Command]:
        """Process a chain that still has our tip, and what its revision shows."""
        self.state.note_head(found.head)
        unchanged = self._is_unchanged(found)
        if unchanged is False:
            if self._contradicted is self._agreement:
                self._audit_now.set()  # the logs did not explain the revision
                return []
            self._contradicted = self._agreement
        return self.state.follower.extended(found, unchanged=unchanged)

    def _is_unchanged(self, found: Extension) -> bool | None:
        """Return whether the contract is as in the last audit; None if it can't be compared."""
        last, follower = self._agreement, self.state.follower
        if last is None or found.revision is None:
            return None
        comparable = last.holds(follower.registry) and (last.is_root or follower.stands_on(last.at))
        return found.revision == last.revision if comparable else None

    async def _audit_by(self, found: Extension) -> None:
        """Count an unchanged revision as the next audit, if that is due before the next poll."""
        state, last = self.state, self._agreement
        if last is None or not self._is_unchanged(found) or state.follower.tip != found.head:
            return
        if state.members.quorum is None:
            state.members.confirmed()
        if last.covers(state.follower.registry) and self._until_audit() < state.head_interval:
            self._agreement = last.repeated(found.head, found.revision)
            self._audited = state.clock.monotonic()
            state.compared()
            await state.changed.put(Began())

    def _expect_announcement(self, commands: Iterable[Command]) -> None:
        """Check later whether the events that a query has found are announced as well."""
        blocks = {x.block_hash for c in commands if isinstance(c, Advanced) for x in c.added}
        if blocks and self.session.announces_logs:
            self._contradicted = None
            self.group.create_task(self._check_announced(blocks), name="chain announcements")

    async def _check_announced(self, blocks: set[str]) -> None:
        await asyncio.sleep(ANNOUNCED)
        if not blocks <= set(self._announced):
            self.end(EndpointError(f"{self.session.name} has not announced a change of the registry"))

    # -- comparisons -------------------------------------------------------------------------------

    async def _compare(self, tip: BlockRef) -> bool:
        """Read everything at our block, and correct the differences; return whether there are none.

        Raises `ChainError`.
        """
        follower, state = self.state.follower, self.state
        observed = await in_time(self.session.name, self.session.read_all(tip))
        if observed is None:
            logs = await self.session.events(max(state.resynced_to - SAFE_DEPTH, 0), tip.number)
            for logged in logs:
                await self.queue.put(logged)
            # The follower does not apply a log of a block that a walk has skipped.
            named = {token for logged in logs if (token := token_of(logged.event)) is not None}
            observed = await self.session.read_tokens(sorted(named | follower.registry.nodes.keys()), tip)
        else:
            gone = follower.registry.nodes.keys() - {observation.token_id for observation in observed}
            observed += [TokenState(token, None) for token in gone]
        contract = await self.session.read_contract(tip)
        state.compared_fully(tip)
        return await self.correct(tip, [*([] if contract is None else [ContractRead(contract)]), *observed])

    async def correct(self, at: BlockRef, observed: Sequence[Reading]) -> bool:
        """Queue a correction of the states that differ at that block; return whether none does."""
        if wrong := await self._contradictions(observed):
            tokens = [x.token_id for x in wrong if isinstance(x, TokenState)]
            contract = len(tokens) < len(wrong)
            _log.warning("registry.resync_differs", tokens=tokens[:20], count=len(tokens), contract=contract)
            await self.queue.put(_Readings(at, wrong, audit=True))
        return not wrong

    def compared(self, at: BlockRef) -> None:
        """Record that a resync compared everything up to that block, and request finality."""
        self._compared = at
        self._settle.set()

    async def settle_forever(self) -> None:
        """Apply finality after each comparison, until cancelled. Raises `ChainError`."""
        while True:
            await self._settle.wait()
            self._settle.clear()
            if self._compared is not None:
                await self.settle(self._compared)

    async def settle(self, tip: BlockRef) -> None:
        """Apply finality after a comparison up to our block ``tip``. Raises `ChainError`."""
        state, now = self.state, self.state.clock.monotonic()
        state.compared()
        if now < self._settled + SETTLES * state.head_interval:
            return
        self._settled = now
        final, above = await final_block(self.session, tip), len(state.follower.timeline.events)
        if final is not None and state.follower.settle(final):
            state.finalized(above - len(state.follower.timeline.events))
            await state.changed.put(Began())

    def end(self, error: ChainError) -> None:
        """End the session with that error; the first error counts."""
        self._error = self._error or error
        self._over.set()

    def restart(self, reason: str) -> None:
        """Request another reading of the whole registry; do nothing if the queue is full."""
        with suppress(asyncio.QueueFull):
            self.queue.put_nowait(Reload(reason))

    async def until_ended(self) -> None:
        """Wait for the error that ends the session, and raise it."""
        await self._over.wait()
        assert self._error is not None
        raise self._error

    async def _contradictions(self, observed: Sequence[Reading]) -> list[Reading]:
        """Return the states that contradict our registry; other tasks run between slices."""
        wrong: list[Reading] = []
        async for part in slices(observed, SLICE):
            wrong += [x for x in part if contradicts(self.state.follower.registry, x)]
        return wrong

    # -- commands of the follower ------------------------------------------------------------------

    async def _obey(self, commands: Iterable[Command], seen: float) -> None:
        for command in commands:
            match command:
                case Advanced():
                    await self._advanced(command, seen)
                case Reload(reason):
                    _log.warning("chain.reload", reason=reason)
                    await check_genesis(self.session)
                    await bootstrap(self.state, self.session, await self.session.head())
                case Leave(reason):
                    raise EndpointError(f"{self.session.name}: {reason}")
                case fetch:
                    self.group.create_task(self._fetch(fetch), name="chain fetch")

    async def _fetch(self, fetch: Fetch) -> None:
        try:
            await self.queue.put(_Answer(fetch, await self._ask(fetch)))
        except LogsError as error:
            await self.queue.put(Reload(f"no logs: {error}"))
        except ChainError as error:
            await self.queue.put(error)

    async def _fetch_unannounced(self, block: BlockRef) -> None:
        """Request a block's logs if none arrives within `LATE`.

        Absorbs `ChainError`: the next resync finds what was missed.
        """
        await asyncio.sleep(LATE)
        if block.hash in self._announced:
            return
        try:
            for logged in await self.session.block_events(block.hash):
                await self.queue.put(logged)
        except ChainError as error:
            _log.debug("chain.logs_unseen", block=block.number, problem=str(error))

    async def _ask(self, fetch: Fetch) -> BlockRef | list[LoggedEvent] | None:
        match fetch:
            case FetchHead():
                return await self._head()
            case FetchHeader(number):
                return await self.session.header(number)
            case FetchEvents(first, last):
                return await self.session.events_up_to(first, last)

    async def _head(self) -> BlockRef:
        """Return the latest block; raises `BehindError` if we passed its height long ago."""
        head = await self.session.head()
        state, name = self.state, self.session.name
        tip, now = state.follower.tip, state.clock.monotonic()
        if tip is not None and not state.discredited and state.lag.is_stale(name, head, tip, now):
            raise BehindError(f"{name} is at block {head.number}, and others are at {tip.number}")
        return head

    async def _advanced(self, advanced: Advanced, seen: float) -> None:
        state = self.state
        state.members.advanced(advanced, seen)
        state.took(advanced)
        publish_advanced(state.publish, advanced, state.follower.registry)
        self._reread(advanced)
        await state.changed.put(advanced)

    def _reread(self, advanced: Advanced) -> None:
        """Read tokens again whose events do not determine their state, once our tip has them."""
        state = self.state
        registry = state.follower.registry
        for logged in advanced.added:
            if type(logged.event) not in self.session.rereads:
                continue
            match logged.event:
                case OwnerKeyUpdated(owner):
                    state.unread.update(registry.with_owner(owner))
                case event if (token := token_of(event)) is not None:
                    state.unread.add(token)
        at = state.follower.newest or advanced.tip
        if state.unread and all(x.block_number <= at.number for x in advanced.added):
            if self._read_after != at.hash:
                self._read_after, self._read_there = at.hash, set()
            tokens = sorted(state.unread - self._read_there)
            state.unread.clear()
            self._read_there |= set(tokens)
            if tokens:
                self.group.create_task(self._read(tokens, at), name="chain read")

    async def _read(self, tokens: list[TokenId], at: BlockRef) -> None:
        try:
            observed = await self.session.read_tokens(tokens, at)
        except ChainError as error:
            self.state.unread.update(tokens)
            await self.queue.put(error)
            return
        await self.queue.put(_Readings(at, observed))

    def _complete(self) -> None:
        """Read the contract's own state if it was never read, and the text of a new policy."""
        follower, newest = self.state.follower, self.state.follower.newest
        contract = follower.registry.contract
        if newest is None or follower.walking or self._completing:
            return
        at = newest.hash, contract.policy
        lacks_text = contract.lacks_text and follower.timeline.is_within(newest.number)
        if at != self._completed and (lacks_text or not (contract.is_read or self._asked_contract)):
            self._completing, self._completed = True, at
            self.group.create_task(self._read_rest(newest, contract), name="chain read contract")

    async def _read_rest(self, at: BlockRef, contract: ContractState) -> None:
        """Read the parts of the contract's own state that are not known yet."""
        observed: list[Reading] = []
        try:
            if not contract.is_read:
                self._asked_contract = True
                read = await self.session.read_contract(at)
                contract = read or contract
                observed += [] if read is None else [ContractRead(read)]
            if contract.lacks_text:
                observed.append(await self.session.read_policy(at))
        except ChainError as error:
            await self.queue.put(error)
            return
        finally:
            self._completing = False
        await self.queue.put(_Readings(at, observed))

    def _take_reading(self, at: BlockRef, observed: Sequence[Reading]) -> list[Command]:
        if not self.state.follower.stands_on(at):  # after a reorg, the next step reads them again
            tokens = {x.token_id for x in observed if isinstance(x, TokenState)}
            self.state.unread.update(tokens)
            self._read_there -= tokens
        return self.state.follower.state_read(at, observed)
