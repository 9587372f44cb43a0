"""Has every endpoint say what it sees of what the followed one says; `core.quorum` judges.

Two kinds of question go out, each to all endpoints at once, and each answer is judged when it comes: about
the tokens that wait for a quorum, as soon as the block that changed them is our tip; and about everything, at
every audit. The followed endpoint is one of those that are asked, over the session that follows it. Nothing
waits for it: this goes on while its session begins, walks, stalls, or ends. It is left if it does not answer
an audit in time. An endpoint that is found to lie goes into quarantine.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from dstack_vpn.bridge.bootstrap import AUDIT_DEADLINE, SAFE_DEPTH
from dstack_vpn.bridge.session import SessionDriver
from dstack_vpn.bridge.slices import slices
from dstack_vpn.bridge.state import Began, ChainState
from dstack_vpn.bridge.witnesses import LOOK, Witnesses, answer
from dstack_vpn.core.agenda import RETRY, Agenda
from dstack_vpn.core.chain_happenings import EndpointQuarantined
from dstack_vpn.core.events import Observed
from dstack_vpn.core.health import QuorumFacts
from dstack_vpn.core.model import BlockRef, TokenId
from dstack_vpn.core.node import Node
from dstack_vpn.core.quorum import Quorum
from dstack_vpn.core.registry import Registry
from dstack_vpn.core.witness import AGREED, Question, Statement, Word, compare, judge_blocks, lacking
from dstack_vpn.errors import ChainError, EndpointError
from dstack_vpn.ports import ChainSource, Witness

_log = structlog.get_logger(component="quorum")

DEADLINE: Final = 8.0
"""Seconds that endpoints have to answer a question about some tokens; an audit's is longer."""
IN_FLIGHT: Final = 4
"""Questions under way at once."""
SLICE: Final = 250
"""Tokens that are compared without a pause."""


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """The followed endpoint as one that is asked: implements `ports.Witness`."""

    driver: SessionDriver

    problem: str | None = None

    @property
    def name(self) -> str:
        """The endpoint's."""
        return self.driver.session.name

    async def testify(self, question: Question) -> Statement:
        """See `ports.Witness.testify`. Corrects what we hold, and ends a session that fails.

        Over a reorg that we have not heard of, it may not know our block any more: that is no failure.
        """
        follower, at = self.driver.state.follower, question.at
        try:
            said = await answer(self.driver.session, replace(question, exact=True))
        except ChainError as error:
            if follower.stands_on(at) and not follower.walking:
                self.driver.end(error)
            raise
        if said.hash == at.hash:
            await self.driver.correct(at, said.observed)
            if question.whole:
                self.driver.compared(at)
        return said


@dataclass(slots=True)
class Jury:
    """All endpoints, asked."""

    state: ChainState
    source: ChainSource
    quorum: Quorum
    _followed: Followed | None = None
    """The endpoint that is followed now; None between two sessions."""
    _work: asyncio.Event = field(default_factory=asyncio.Event)
    _witnesses: Witnesses = field(init=False)
    _agenda: Agenda = field(default_factory=Agenda)
    _busy: set[str] = field(default_factory=set)
    """Endpoints that are answering an audit."""
    _contested: set[TokenId] = field(default_factory=set)
    """What the log has about contested tokens."""
    _tips: deque[tuple[float, BlockRef]] = field(default_factory=deque)
    """When we stood on which block, at the audits."""

    def wake(self) -> None:
        """Look for tokens to ask about."""
        self._work.set()

    @contextmanager
    def following(self, driver: SessionDriver) -> Iterator[None]:
        """Ask this endpoint over its session for as long as it is followed."""
        self._followed = Followed(driver)
        self._witnesses.dismiss(driver.session.name)
        self._work.set()
        try:
            yield
        finally:
            self._followed = None

    def start(self, group: asyncio.TaskGroup) -> None:
        """Ask and judge for as long as the group runs, whatever is followed."""
        self._witnesses = Witnesses(self.source, group)
        group.create_task(self._audit_forever(group), name="quorum audits")
        group.create_task(self._ask_forever(group), name="quorum questions")

    def _asked(self) -> list[Witness]:
        """Everybody, each with a connection."""
        followed = self._followed
        self._witnesses.call(besides="" if followed is None else followed.name)
        return [*self._witnesses] if followed is None else [followed, *self._witnesses]

    # -- questions about some tokens ------------------------------------------------------------------

    async def _ask_forever(self, group: asyncio.TaskGroup) -> None:
        limit = asyncio.Semaphore(IN_FLIGHT)
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._work.wait(), self._patience())
            self._work.clear()
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
            self._work.set()
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
                self._work.set()

        def judged(_: Statement) -> None:
            if not set(question.tokens).intersection(self.quorum.questions(height)):
                end()

        try:
            await self._hear(question, self._asked(), DEADLINE, judged)
        finally:
            end()
            self._tell()

    # -- audits ---------------------------------------------------------------------------------------

    async def _audit_forever(self, group: asyncio.TaskGroup) -> None:
        """Begin an audit every interval, also while one goes on; sooner for another followed endpoint."""
        pause = RETRY[0]
        while True:
            began, interval = self.state.clock.monotonic(), self.state.audit_interval
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
        asked = [x for x in self._asked() if x.name not in self._busy]
        known = tuple(follower.registry.nodes)
        question = Question(
            tip, known, True, earlier=self._earlier(), logs_from=max(self.state.audited_to - SAFE_DEPTH, 0)
        )
        statements: list[Statement] = []
        confirmed = False

        def heard(statement: Statement) -> None:
            nonlocal confirmed
            statements.append(statement)
            if statement.head is not None:
                self.state.lag.shown(statement.endpoint, statement.head, self.state.clock.monotonic())
            confirmed = self._confirms(tip, statements)

        in_time = await self._hear(question, asked, AUDIT_DEADLINE, heard)
        self._judge_blocks(question, statements)
        answered = {x.endpoint for x in statements}
        silent = [x for x in asked if x.name not in answered]
        self._facts.silent = {x.name: x.problem or "it does not answer in time" for x in silent}
        if not in_time:
            self._leave_silent(silent)
        self._tell()
        await self.state.changed.put(Began())
        return confirmed

    def _earlier(self) -> tuple[int, str] | None:
        """A block that we stood on `AGREED` ago, or the one that a reorg put in its place."""
        follower, now = self.state.follower, self.state.clock.monotonic()
        if follower.tip is not None:
            self._tips.append((now, follower.tip))
        while len(self._tips) > 1 and self._tips[1][0] <= now - AGREED:
            self._tips.popleft()
        if not self._tips or self._tips[0][0] > now - AGREED:
            return None
        block = self._tips[0][1]
        return block.number, follower.hash_at(block.number) or block.hash

    def _confirms(self, tip: BlockRef, statements: Sequence[Statement]) -> bool:
        """With the answers of k endpoints that have our block, the registry is known; returns whether it is.

        At the start an endpoint has to be followed, too: our block may be the one that was stored.
        """
        facts = self.state.facts
        self._facts.agreeing = sum(x.hash == tip.hash for x in statements)
        known = facts.synced is not None or facts.chain_problem is None
        if known and self._facts.agreeing >= self.quorum.needed:
            self.state.members.confirmed()
            return True
        return False

    def _judge_blocks(self, question: Question, statements: Sequence[Statement]) -> None:
        needed, tip = self.quorum.needed, question.at
        claims = self.state.lag.overdue(tip, self.state.clock.monotonic())
        earlier = None if question.earlier is None else question.earlier[0]
        for name, reason in judge_blocks(needed, statements, earlier, claims).items():
            self._sentence(name, reason)
        if without := lacking(needed, statements, earlier):
            self._discredit(without)

    def _discredit(self, honest: Collection[str]) -> None:
        """Our chain is made up: have the registry read again, from an endpoint that follows another one."""
        self._tips.clear()
        followed = self._followed
        if followed is not None and followed.name in honest:
            followed.driver.restart("the endpoints don't have our blocks")
            return
        self.state.discredited = True
        if followed is not None:
            followed.driver.end(EndpointError(f"{followed.name}: its blocks are not those of the others"))

    def _leave_silent(self, silent: Sequence[Witness]) -> None:
        followed = self._followed
        if followed is not None and any(x is followed for x in silent):
            seconds = f"{AUDIT_DEADLINE:.0f} s"
            followed.driver.end(EndpointError(f"{followed.name} has not answered an audit in {seconds}"))

    # -- both -----------------------------------------------------------------------------------------

    async def _hear(
        self,
        question: Question,
        asked: Sequence[Witness],
        deadline: float,
        heard: Callable[[Statement], None],
    ) -> bool:
        """Ask everybody, and judge by each answer as it comes; returns whether all have answered in time.

        Absorbs `ChainError`: an endpoint that fails has answered.
        """
        ours, unsettled = self.state.follower.registry, self.state.follower.open_tokens()
        answers: asyncio.Queue[Statement | None] = asyncio.Queue()
        words: list[Word] = []
        try:
            async with asyncio.timeout(deadline), asyncio.TaskGroup() as group:
                for each in asked:
                    group.create_task(self._into(answers, each, question))
                for _ in asked:
                    if (statement := await answers.get()) is None:
                        continue
                    words += await self._words(ours, question.at, statement)
                    self._judge(ours, words, unsettled)
                    heard(statement)
        except TimeoutError:
            return False
        return True

    async def _into(
        self, answers: asyncio.Queue[Statement | None], witness: Witness, question: Question
    ) -> None:
        """Put what it says there, or None."""
        said: Statement | None = None
        if question.whole:
            self._busy.add(witness.name)
        try:
            said = await witness.testify(question)
        except ChainError as error:
            _log.debug("quorum.unanswered", endpoint=witness.name, problem=str(error))
        finally:
            if question.whole:
                self._busy.discard(witness.name)
            answers.put_nowait(said)

    async def _words(self, ours: Registry, at: BlockRef, statement: Statement) -> list[Word]:
        """What it says of our block, and of its head if that differs."""
        word = Word.of(statement, at, *await self._compare(ours, statement.observed))
        _, differs = await self._compare(ours, statement.later)
        if differs and statement.head is not None:
            return [*word.until(statement.head, differs)]
        return [word]

    @staticmethod
    async def _compare(
        ours: Registry, observed: Sequence[Observed]
    ) -> tuple[set[TokenId], dict[TokenId, Node | None]]:
        """A few hundred tokens at a time, so that no event waits."""
        same: set[TokenId] = set()
        differs: dict[TokenId, Node | None] = {}
        async for part in slices(observed, SLICE):
            equal, other = compare(ours, part)
            same |= equal
            differs |= other
        return same, differs

    def _judge(self, ours: Registry, words: Sequence[Word], unsettled: Collection[TokenId]) -> None:
        free = self.source.quarantined()
        heard = [x for x in words if x.endpoint not in free or not free[x.endpoint].seconds_left]
        verdict = self.quorum.heard(ours, self.state.follower.registry, heard, unsettled)
        self.state.members.testified(verdict.changed)
        for name, reason in verdict.liars.items():
            self._sentence(name, reason)
        contested = set(self.quorum.contested)
        if contested - self._contested:
            _log.warning("quorum.contested", tokens=sorted(contested)[:20], count=len(contested))
        self._contested = contested

    def _sentence(self, name: str, reason: str) -> None:
        """An endpoint lies: it is asked nothing more for a while, and what it said is void."""
        self.source.quarantine(name, reason)
        self.state.announce(EndpointQuarantined(name, reason))
        self.state.members.testified(self.quorum.strike(name))
        self.state.lag.void(name)
        self._witnesses.dismiss(name)
        self._tell()
        if self._followed is not None and name == self._followed.name:
            self._followed.driver.end(EndpointError(f"{name} was found to lie: {reason}"))

    def _tell(self) -> None:
        """Let health know."""
        facts, quorum = self._facts, self.quorum
        facts.waiting, facts.disputed = quorum.pending, quorum.disputed
        facts.contested = {token: sorted(who) for token, who in quorum.contested.items()}
        found = self.source.quarantined()
        facts.lies = {name: entry.times for name, entry in found.items()}
        facts.quarantined = {name: entry.reason for name, entry in found.items() if entry.seconds_left}

    @property
    def _facts(self) -> QuorumFacts:
        facts = self.state.facts
        if facts.quorum is None:
            facts.quorum = QuorumFacts(self.quorum.needed)
        return facts.quorum
