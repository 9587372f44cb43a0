"""One question to all endpoints: the replies are compared with the registry, judged and applied.

`core.access.quorum` judges. An endpoint that k others contradict is quarantined, and its session
ends.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from dstack_vpn.core.access.quorum import Quorum
from dstack_vpn.core.access.replies import Comparison, Question, Reply, compare
from dstack_vpn.core.chain.agreement import Agreement
from dstack_vpn.core.chain.events import TokenState
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import BlockRef, TokenId
from dstack_vpn.core.observe.events import EndpointQuarantined
from dstack_vpn.daemon.chain.session import SessionDriver
from dstack_vpn.daemon.chain.state import ChainState
from dstack_vpn.daemon.chain.verifiers import Verifiers, answer
from dstack_vpn.errors import ChainError, EndpointError
from dstack_vpn.ports import ChainSource, Verifier
from dstack_vpn.slices import slices

_log = structlog.get_logger(component="quorum")

SLICE: Final = 250
"""The number of tokens that are compared without yielding to the event loop."""


@dataclass(frozen=True, slots=True, eq=False)
class FollowedVerifier:
    """The followed endpoint as a verifier: implements `ports.Verifier`."""

    driver: SessionDriver

    problem: str | None = None

    @property
    def name(self) -> str:
        """The endpoint's name."""
        return self.driver.session.name

    async def query(self, question: Question) -> Reply:
        """See `ports.Verifier.query`. Corrects the registry, and ends a session that fails.

        After a reorg that we have not seen yet, a missing block is not a failure.
        """
        follower, at = self.driver.state.follower, question.at
        try:
            reply = await answer(self.driver.session, replace(question, exact=True))
        except ChainError as error:
            if follower.stands_on(at) and not follower.walking:
                self.driver.end(error)
            raise
        if reply.hash == at.hash:
            await self.driver.correct(at, reply.readings)
            if question.whole and not reply.repeats:
                self.driver.state.compared_fully(at)
            if question.whole and (not reply.repeats or follower.timeline.events):
                self.driver.compared(at)
            elif question.whole:  # no event waits for finality
                self.driver.state.compared()
        return reply


@dataclass(slots=True)
class QuorumSession:
    """Queries all endpoints, and applies the outcome of the comparisons."""

    state: ChainState
    source: ChainSource
    quorum: Quorum
    verifiers: Verifiers
    followed: FollowedVerifier | None = None
    """The followed endpoint; None between two sessions."""
    busy: set[str] = field(default_factory=set)
    """Endpoints with an open resync query."""
    _agreements: dict[str, Agreement] = field(default_factory=dict)
    """The last full reading of each endpoint that showed what we hold."""
    _contested: set[TokenId] = field(default_factory=set)
    """The contested tokens that were already logged."""

    def follow(self, followed: FollowedVerifier | None) -> None:
        """Query this endpoint over its session from now on; None: no endpoint is followed."""
        self.followed = followed
        if followed is not None:
            self.verifiers.dismiss(followed.name)

    def all_verifiers(self) -> list[Verifier]:
        """Return a verifier for every endpoint that is not quarantined; connect missing ones."""
        followed = self.followed
        self.verifiers.call(besides="" if followed is None else followed.name)
        return [*self.verifiers] if followed is None else [followed, *self.verifiers]

    async def query(
        self,
        question: Question,
        asked: Sequence[Verifier],
        deadline: float,
        on_reply: Callable[[Reply], None],
    ) -> bool:
        """Query the verifiers and judge each reply on arrival; return whether all finished in time.

        Absorbs `ChainError`: an endpoint that fails counts as finished.
        """
        ours, unsettled = self.state.follower.registry, self.state.follower.open_tokens()
        replies: asyncio.Queue[Reply | None] = asyncio.Queue()
        comparisons: list[Comparison] = []
        try:
            async with asyncio.timeout(deadline), asyncio.TaskGroup() as group:
                for each in asked:
                    group.create_task(
                        self._query_into(replies, each, self._question_to(each.name, question, ours))
                    )
                for _ in asked:
                    if (reply := await replies.get()) is None:
                        continue
                    found = await self._comparisons(ours, question.at, reply)
                    if question.whole:
                        self._note_agreement(ours, reply, found)
                    comparisons += found
                    self.quorum.contract.replied(found)
                    self._judge(ours, comparisons, unsettled)
                    on_reply(reply)
        except TimeoutError:
            return False
        return True

    def _question_to(self, name: str, question: Question, ours: Registry) -> Question:
        """Add the endpoint's own last full reading to a resync, if it showed what we hold."""
        agreed = self._agreements.get(name)
        covered = question.whole and agreed is not None and agreed.covers(ours)
        return replace(question, agreed=agreed) if covered else question

    def _note_agreement(self, ours: Registry, reply: Reply, found: Sequence[Comparison]) -> None:
        before, shown = self._agreements.pop(reply.endpoint, None), reply.contract
        differs = shown is not None and shown.claim != ours.contract.claim
        if reply.revision is not None and not differs and not any(x.differs for x in found):
            agreement = Agreement.after(before, reply.at, reply.revision, ours, reply.repeats)
            self._agreements[reply.endpoint] = agreement

    async def _query_into(
        self, replies: asyncio.Queue[Reply | None], verifier: Verifier, question: Question
    ) -> None:
        """Put the verifier's reply into the queue, or None if it fails."""
        reply: Reply | None = None
        if question.whole:
            self.busy.add(verifier.name)
        try:
            reply = await verifier.query(question)
        except ChainError as error:
            self._agreements.pop(verifier.name, None)
            _log.debug("quorum.unanswered", endpoint=verifier.name, problem=str(error))
        finally:
            if question.whole:
                self.busy.discard(verifier.name)
            replies.put_nowait(reply)

    async def _comparisons(self, ours: Registry, at: BlockRef, reply: Reply) -> list[Comparison]:
        """Return the comparisons at our block, and at the endpoint's head if that differs."""
        comparison = Comparison.of(reply, at, *await self._compare(ours, reply.observed))
        _, differs = await self._compare(ours, reply.later)
        if differs and reply.head is not None:
            return [*comparison.until(reply.head, differs)]
        return [comparison]

    @staticmethod
    async def _compare(
        ours: Registry, observed: Sequence[TokenState]
    ) -> tuple[set[TokenId], dict[TokenId, Node | None]]:
        """Compare a few hundred tokens at a time, so that the event loop is not blocked."""
        same: set[TokenId] = set()
        differs: dict[TokenId, Node | None] = {}
        async for part in slices(observed, SLICE):
            equal, other = compare(ours, part)
            same |= equal
            differs |= other
        return same, differs

    def _judge(
        self, ours: Registry, comparisons: Sequence[Comparison], unsettled: Collection[TokenId]
    ) -> None:
        free = self.source.quarantined()
        considered = [x for x in comparisons if x.endpoint not in free or not free[x.endpoint].seconds_left]
        outcome = self.quorum.judge(ours, self.state.follower.registry, considered, unsettled)
        self.state.members.quorum_changed(outcome.changed)
        for name, reason in outcome.contradicted.items():
            self.quarantine(name, reason)
        contested = set(self.quorum.contested)
        if contested - self._contested:
            _log.warning("quorum.contested", tokens=sorted(contested)[:20], count=len(contested))
        self._contested = contested

    def quarantine(self, name: str, reason: str) -> None:
        """Quarantine an endpoint: stop querying it for a while, and drop its contradictions."""
        self.source.quarantine(name, reason)
        self._agreements.pop(name, None)
        self.state.publish(EndpointQuarantined(name, reason))
        self.state.members.quorum_changed(self.quorum.discard(name))
        self.state.lag.void(name)
        self.verifiers.dismiss(name)
        if self.followed is not None and name == self.followed.name:
            self.followed.driver.end(EndpointError(f"{name} is quarantined: {reason}"))
