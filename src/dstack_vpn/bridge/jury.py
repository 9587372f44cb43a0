"""Has other endpoints say what they see of what the followed one says; `core.quorum` judges.

Two kinds of question go out, each to all other endpoints at once and judged by every answer as it comes, so
that one that stalls holds up nobody: about the tokens that wait for a quorum, as soon as the block that
changed them is our tip; and about everything, at every audit. An endpoint that is found to lie goes into
quarantine, and where it is the followed one, the session ends and another endpoint is followed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from dstack_vpn.bridge.bootstrap import SAFE_DEPTH
from dstack_vpn.bridge.slices import slices
from dstack_vpn.bridge.state import Began, ChainState
from dstack_vpn.bridge.witnesses import LOOK, Witnesses
from dstack_vpn.core.agenda import RETRY, Agenda
from dstack_vpn.core.chain_happenings import EndpointQuarantined
from dstack_vpn.core.events import Observed
from dstack_vpn.core.health import QuorumFacts
from dstack_vpn.core.model import BlockRef, TokenId
from dstack_vpn.core.node import Node
from dstack_vpn.core.quorum import Quorum
from dstack_vpn.core.registry import Registry, contradicts
from dstack_vpn.core.witness import Question, Statement, Word, compare, judge_blocks
from dstack_vpn.errors import ChainError, EndpointError
from dstack_vpn.ports import ChainSession, ChainSource, Witness

_log = structlog.get_logger(component="quorum")

DEADLINE: Final = 8.0
"""Seconds that the others have to answer a question about some tokens..."""
AUDIT_DEADLINE: Final = 60.0
"""...and about everything."""
IN_FLIGHT: Final = 4
"""Questions under way at once."""
SLICE: Final = 250
"""Tokens that are compared without a pause."""


@dataclass(frozen=True, slots=True)
class Court:
    """The session that is followed, and what can be done to it."""

    session: ChainSession
    audit: Callable[[], Awaitable[Sequence[Observed] | None]]
    """Reads everything at our tip from it, and corrects what we hold by that."""
    correct: Callable[[BlockRef, list[Observed]], Awaitable[None]]
    """Corrects what we hold by what it was read to say."""
    end: Callable[[ChainError], Awaitable[None]]
    """Ends it."""


@dataclass(slots=True)
class Jury:
    """The other endpoints, asked while one is followed."""

    state: ChainState
    source: ChainSource
    quorum: Quorum
    _work: asyncio.Event = field(default_factory=asyncio.Event)
    _witnesses: Witnesses = field(init=False)
    _agenda: Agenda = field(default_factory=Agenda)
    _earlier: int | None = None
    """The height that we stood at at the last audit."""
    _ahead: dict[str, int] = field(default_factory=dict)
    """How far the others were then, where that was further."""

    def wake(self) -> None:
        """There may be tokens to ask about."""
        self._work.set()

    async def sit(self, court: Court) -> None:
        """Ask and judge for as long as the session lasts."""
        self._agenda, self._earlier, self._ahead = Agenda(), None, {}
        self._work.set()
        async with asyncio.TaskGroup() as group:
            self._witnesses = Witnesses(self.source, group)
            self._witnesses.call(besides=court.session.name)
            group.create_task(self._audit_forever(court), name="quorum audits")
            group.create_task(self._ask_forever(court, group), name="quorum questions")

    # -- questions about some tokens ------------------------------------------------------------------

    async def _ask_forever(self, court: Court, group: asyncio.TaskGroup) -> None:
        limit = asyncio.Semaphore(IN_FLIGHT)
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._work.wait(), self._patience())
            self._work.clear()
            await limit.acquire()
            if (question := self._next_question()) is None:
                limit.release()
            else:
                group.create_task(self._ask(court, question, limit), name="quorum question")

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

    async def _ask(self, court: Court, question: Question, limit: asyncio.Semaphore) -> None:
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

        def judged() -> None:
            if not set(question.tokens).intersection(self.quorum.questions(height)):
                end()

        async def own() -> Sequence[Observed]:
            observed = await court.session.read_tokens(question.tokens, question.at)
            if wrong := [x for x in observed if contradicts(self.state.follower.registry, x)]:
                await court.correct(question.at, wrong)
            return observed

        try:
            await self._hear(court, question, own, DEADLINE, judged)
        finally:
            end()
            self._tell()

    # -- audits ---------------------------------------------------------------------------------------

    async def _audit_forever(self, court: Court) -> None:
        pause = RETRY[0]
        while True:
            self._witnesses.call(besides=court.session.name)
            if await self._audit(court):
                self.state.members.confirmed()
                pause = RETRY[0]
                await asyncio.sleep(self.state.audit_interval)
            else:
                await asyncio.sleep(min(pause, self.state.audit_interval))
                pause = min(2 * pause, RETRY[1])

    async def _audit(self, court: Court) -> bool:
        """Everything, with all; returns whether a quorum was heard."""
        follower = self.state.follower
        while follower.walking:  # noqa: ASYNC110 - a moment, at the beginning of a session
            await asyncio.sleep(LOOK)
        if (tip := follower.tip) is None:
            return False
        known = tuple(follower.registry.nodes)
        hash_ = None if self._earlier is None else follower.hash_at(self._earlier)
        earlier = None if self._earlier is None or hash_ is None else (self._earlier, hash_)
        question = Question(tip, known, True, earlier, max(self.state.audited_to - SAFE_DEPTH, 0))
        statements = await self._hear(court, question, court.audit, AUDIT_DEADLINE)
        if statements is None:
            return False
        liars = judge_blocks(self.quorum.needed, court.session.name, tip.number, statements, self._ahead)
        for name, reason in liars.items():
            await self._sentence(court, name, reason)
        self._earlier = tip.number
        self._ahead = {x.endpoint: x.head for x in statements if x.head is not None and x.head > tip.number}
        facts = self._facts
        facts.agreeing = 1 + sum(x.hash == tip.hash and x.endpoint not in liars for x in statements)
        heard = {x.endpoint for x in statements}
        facts.silent = {
            witness.name: witness.problem or "it does not answer in time"
            for witness in self._witnesses
            if witness.name not in heard
        }
        self._tell()
        await self.state.changed.put(Began())
        return facts.agreeing >= self.quorum.needed

    # -- both -----------------------------------------------------------------------------------------

    async def _hear(
        self,
        court: Court,
        question: Question,
        own: Callable[[], Awaitable[Sequence[Observed] | None]],
        deadline: float,
        judged: Callable[[], None] = lambda: None,
    ) -> list[Statement] | None:
        """Ask everybody, and judge by each answer as it comes; None where the followed endpoint fails.

        Absorbs `ChainError` of the others; with one of the followed endpoint the session ends.
        """
        ours, heard = self.state.follower.registry, list[Statement]()
        answers: asyncio.Queue[Statement | None] = asyncio.Queue()
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline), asyncio.TaskGroup() as group:
                asking = [group.create_task(_into(answers, witness, question)) for witness in self._witnesses]
                try:
                    observed = await own()
                except ChainError as error:
                    await court.end(error)
                    observed = None
                if observed is None:
                    for task in asking:
                        task.cancel()
                    return None
                said = Statement(court.session.name, question.at.hash, question.at, observed)
                leader = await self._compare(ours, question.at, said)
                words: list[Word] = []
                for _ in asking:
                    if (statement := await answers.get()) is None:
                        continue
                    heard.append(statement)
                    words.append(await self._compare(ours, question.at, statement))
                    await self._judge(court, leader, ours, words)
                    judged()
        return heard

    @staticmethod
    async def _compare(ours: Registry, at: BlockRef, statement: Statement) -> Word:
        """A few hundred tokens at a time, so that no event waits."""
        same: set[TokenId] = set()
        differs: dict[TokenId, Node | None] = {}
        async for part in slices(statement.observed, SLICE):
            equal, other = compare(ours, part)
            same |= equal
            differs |= other
        return Word.of(statement, at, same, differs)

    async def _judge(self, court: Court, leader: Word, ours: Registry, words: Sequence[Word]) -> None:
        follower = self.state.follower
        verdict = self.quorum.heard(leader, ours, follower.registry, words)
        self.state.members.testified(verdict.changed)
        for name, reason in verdict.liars.items():
            await self._sentence(court, name, reason)
        if self.quorum.contested:
            _log.warning(
                "quorum.contested", tokens=list(self.quorum.contested)[:20], count=len(self.quorum.contested)
            )

    async def _sentence(self, court: Court, name: str, reason: str) -> None:
        """An endpoint lies: it is asked nothing more for a while, and what it said is void."""
        self.source.quarantine(name, reason)
        self.state.announce(EndpointQuarantined(name, reason))
        self.state.members.testified(self.quorum.strike(name))
        self._witnesses.dismiss(name)
        self._tell()
        if name == court.session.name:
            await court.end(EndpointError(f"{name} was found to lie: {reason}"))

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


async def _into(answers: asyncio.Queue[Statement | None], witness: Witness, question: Question) -> None:
    """Put what is said there, or None."""
    try:
        answers.put_nowait(await witness.testify(question))
    except ChainError:
        answers.put_nowait(None)
