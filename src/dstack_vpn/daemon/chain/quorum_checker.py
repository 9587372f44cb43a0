"""Has every endpoint say what it sees of what the followed one says; `core.access.quorum` judges.

Two kinds of question go out, each to all endpoints at once, and each answer is judged when it comes: about
the tokens that wait for a quorum, as soon as the block that changed them is our tip; and about everything, at
every audit. The followed endpoint is one of those that are asked, over the session that follows it. Nothing
waits for it: this goes on while its session begins, walks, stalls, or ends. It is left if it does not answer
an audit in time. An endpoint that is found to lie goes into quarantine.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.access.quorum import Quorum
from dstack_vpn.core.access.replies import AGREED, Question, Reply, judge_blocks, lacking
from dstack_vpn.core.access.retry_queue import RETRY, RetryQueue
from dstack_vpn.core.model import BlockRef
from dstack_vpn.core.observe.reports import QuorumReport
from dstack_vpn.daemon.chain.bootstrap import RESYNC_DEADLINE, SAFE_DEPTH
from dstack_vpn.daemon.chain.quorum_session import FollowedVerifier, QuorumSession
from dstack_vpn.daemon.chain.session import SessionDriver
from dstack_vpn.daemon.chain.state import Began, ChainState
from dstack_vpn.daemon.chain.verifiers import LOOK, Verifiers
from dstack_vpn.errors import EndpointError
from dstack_vpn.ports import ChainSource, Verifier

DEADLINE: Final = 8.0
"""Seconds that endpoints have to answer a question about some tokens; an audit's is longer."""
TIPS: Final = 256
"""Blocks that we stood on at audits, and that are remembered."""
IN_FLIGHT: Final = 4
"""Questions under way at once."""
SLICE: Final = 250
"""Tokens that are compared without a pause."""


@dataclass(slots=True)
class QuorumChecker:
    """All endpoints, asked."""

    state: ChainState
    source: ChainSource
    quorum: Quorum
    doubted: asyncio.Event
    """Set when there may be tokens to ask about."""
    session: QuorumSession = field(init=False)
    _silent: dict[str, str] = field(default_factory=dict, init=False)
    """Endpoints that did not answer the last audit, and why."""
    _agreeing: int = field(default=0, init=False)
    _agenda: RetryQueue = field(default_factory=RetryQueue)
    _agreed: dict[str, float] = field(default_factory=dict)
    """When each endpoint was last seen to have our block; those that don't any more are not there."""
    _tips: deque[tuple[float, BlockRef]] = field(default_factory=lambda: deque(maxlen=TIPS))
    """When we stood on which block, at the audits."""

    def __post_init__(self) -> None:
        self.session = QuorumSession(self.state, self.source, self.quorum, Verifiers(self.source))

    def report(self) -> QuorumReport:
        """Report for health and metrics."""
        quorum, found = self.quorum, self.source.quarantined()
        return QuorumReport(
            needed=quorum.needed,
            agreeing=self._agreeing,
            waiting=quorum.pending,
            disputed=tuple(quorum.disputed),
            contested={token: tuple(sorted(who)) for token, who in quorum.contested.items()},
            quarantined={name: entry.reason for name, entry in found.items() if entry.seconds_left},
            contradictions={name: entry.times for name, entry in found.items()},
            silent=self._silent,
        )

    @contextmanager
    def following(self, driver: SessionDriver) -> Iterator[None]:
        """Ask this endpoint over its session for as long as it is followed."""
        self.session.follow(FollowedVerifier(driver))
        self.doubted.set()
        try:
            yield
        finally:
            self.session.follow(None)

    def start(self, group: asyncio.TaskGroup) -> None:
        """Ask and judge for as long as the group runs, whatever is followed."""
        self.session.verifiers.start(group)
        group.create_task(self._audit_forever(group), name="quorum audits")
        group.create_task(self._ask_forever(group), name="quorum questions")

    # -- questions about some tokens ------------------------------------------------------------------

    async def _ask_forever(self, group: asyncio.TaskGroup) -> None:
        limit = asyncio.Semaphore(IN_FLIGHT)
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.doubted.wait(), self._patience())
            self.doubted.clear()
            await limit.acquire()
            if (question := self._next_question()) is None:
                limit.release()
            else:
                group.create_task(self._ask(question, limit), name="quorum question")

    def _patience(self) -> float | None:
        """Seconds until the next look at what to ask, without being woken; None: as long as it takes."""
        if self.quorum.pending and self._at() is None:
            return LOOK  # a walk that ends where it began tells nobody
        return RETRY[0] if self._agenda.postponed else None

    def _at(self) -> BlockRef | None:
        """The block to ask about; None before the one that changed the tokens is our tip."""
        follower = self.state.follower
        tip, events = follower.tip, follower.timeline.events
        if tip is None or follower.walking or (events and events[-1].block_number > tip.number):
            return None
        return tip

    def _next_question(self) -> Question | None:
        """What to ask now."""
        if (tip := self._at()) is None:
            return None
        now = self.state.clock.monotonic()
        tokens, left = self._agenda.take(self.quorum.questions(tip.number), now)
        if left:
            self.doubted.set()
        return Question(tip, tokens) if tokens else None

    async def _ask(self, question: Question, limit: asyncio.Semaphore) -> None:
        """One question, to all; it holds up others only until its tokens are settled."""
        height, under_way = question.at.number, True

        def end() -> None:
            nonlocal under_way
            if under_way:
                under_way = False
                now = self.state.clock.monotonic()
                self._agenda.answered(question.tokens, self.quorum.questions(height), now)
                limit.release()
                self.doubted.set()

        def judged(_: Reply) -> None:
            if not set(question.tokens).intersection(self.quorum.questions(height)):
                end()

        try:
            await self.session.hear(question, self.session.everybody(), DEADLINE, judged)
        finally:
            end()

    # -- audits ---------------------------------------------------------------------------------------

    async def _audit_forever(self, group: asyncio.TaskGroup) -> None:
        """Begin an audit every interval, also while one goes on; sooner for another followed endpoint."""
        pause = RETRY[0]
        while True:
            began, interval = self.state.clock.monotonic(), self.state.resync_interval
            self.state.fresh.clear()
            audit = group.create_task(self._audit(), name="quorum audit")
            await asyncio.wait([audit], timeout=interval)
            if audit.done() and not audit.result():
                await self._rest(min(pause, interval))
                pause = min(2 * pause, RETRY[1])
            else:
                pause = RETRY[0]
                await self._rest(began + interval - self.state.clock.monotonic())

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.state.fresh.wait(), max(seconds, 0.0))

    async def _audit(self) -> bool:
        """Everything, with all that don't answer the audit before; returns whether a quorum was heard."""
        follower = self.state.follower
        if (tip := follower.tip) is None:
            return False
        asked = [x for x in self.session.everybody() if x.name not in self.session.busy]
        known = tuple(follower.registry.nodes)
        question = Question(
            tip, known, True, earlier=self._earlier(), logs_from=max(self.state.resynced_to - SAFE_DEPTH, 0)
        )
        statements: list[Reply] = []
        confirmed = False

        def heard(statement: Reply) -> None:
            nonlocal confirmed
            statements.append(statement)
            if statement.head is not None:
                self.state.lag.shown(statement.endpoint, statement.head, self.state.clock.monotonic())
            confirmed = self._confirms(tip, statement)

        in_time = await self.session.hear(question, asked, RESYNC_DEADLINE, heard)
        self._judge_blocks(question, statements)
        answered = {x.endpoint for x in statements}
        silent = [x for x in asked if x.name not in answered]
        self._silent = {x.name: x.problem or "it does not answer in time" for x in silent}
        for each in silent:
            self._agreed.pop(each.name, None)
        self._agreeing = len(self._agreed)
        if not in_time:
            self._leave_silent(silent)
        await self.state.changed.put(Began())
        return confirmed

    def _earlier(self) -> tuple[int, str] | None:
        """A block that we stood on `AGREED` ago, as our chain has it now: a reorg may have replaced it.

        If our chain has none of the blocks that we stood on, it was read anew: then as it was.
        """
        follower, now = self.state.follower, self.state.clock.monotonic()
        old = [block for since, block in self._tips if since <= now - AGREED]
        known = [(x.number, hash_) for x in old if (hash_ := follower.hash_at(x.number)) is not None]
        ours = any(follower.stands_on(block) for _, block in self._tips)
        if follower.tip is not None:
            self._tips.append((now, follower.tip))
        if known:
            return known[-1]
        return None if ours or not old else (old[-1].number, old[-1].hash)

    def _confirms(self, tip: BlockRef, statement: Reply) -> bool:
        """With the answers of k endpoints that have our block, the registry is known; returns whether it is.

        At the start an endpoint has to be followed, too: our block may be the one that was stored.
        """
        now = self.state.clock.monotonic()
        if statement.hash == tip.hash:
            self._agreed[statement.endpoint] = now
        else:
            self._agreed.pop(statement.endpoint, None)
        lately = now - self.state.resync_interval - RESYNC_DEADLINE
        self._agreeing = sum(seen >= lately for seen in self._agreed.values())
        known = self.state.members.synced is not None or self.state.problem is None
        if known and self._agreeing >= self.quorum.needed:
            self.state.members.confirmed()
            return True
        return False

    def _judge_blocks(self, question: Question, statements: Sequence[Reply]) -> None:
        needed, tip = self.quorum.needed, question.at
        claims = self.state.lag.overdue(tip, self.state.clock.monotonic())
        earlier = None if question.earlier is None else question.earlier[0]
        for name, reason in judge_blocks(needed, statements, earlier, claims).items():
            self.session.quarantine(name, reason)
        if without := lacking(needed, statements, earlier):
            self._discredit(without)

    def _discredit(self, honest: Collection[str]) -> None:
        """Our chain is made up: have the registry read again, from an endpoint that follows another one."""
        self._tips.clear()
        followed = self.session.followed
        if followed is not None and followed.name in honest:
            followed.driver.restart("the endpoints don't have our blocks")
            return
        self.state.discredit()
        if followed is not None:
            followed.driver.end(EndpointError(f"{followed.name}: its blocks are not those of the others"))

    def _leave_silent(self, silent: Sequence[Verifier]) -> None:
        followed = self.session.followed
        if followed is not None and any(x is followed for x in silent):
            seconds = f"{RESYNC_DEADLINE:.0f} s"
            followed.driver.end(EndpointError(f"{followed.name} has not answered an audit in {seconds}"))
