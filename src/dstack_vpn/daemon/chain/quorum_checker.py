"""The quorum checker, which queries every endpoint; `core.access.quorum` judges the replies.

It checks the followed endpoint's state. It sends two kinds of question, each to all endpoints at
once, and judges each reply on arrival: about the tokens that wait for a quorum, once the block that
changed them is our tip; and about all tokens, at every resync. The followed endpoint is queried
too, over the session that follows it. The checker does not wait for that session: it runs while the
session begins, walks, stalls, or ends. The session ends if its endpoint does not reply to a resync
in time. An endpoint that k others contradict is quarantined.
"""

import asyncio
import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.access.quorum import Quorum
from dstack_vpn.core.access.replies import AGREED, Question, Reply, judge_blocks, lacking
from dstack_vpn.core.access.retry_queue import RETRY, RetryQueue, States
from dstack_vpn.core.chain.contract import CONTRACT, Hash
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
"""Seconds for replies to a question about some tokens; a resync has a longer deadline."""
TIPS: Final = 256
"""The number of former tips, one for each resync, that are kept."""
IN_FLIGHT: Final = 4
"""The limit of concurrent questions."""
SLICE: Final = 250
"""The number of tokens that are compared without yielding to the event loop."""


@dataclass(slots=True)
class QuorumChecker:
    """Queries all endpoints and applies the quorum's outcomes."""

    state: ChainState
    source: ChainSource
    quorum: Quorum
    doubted: asyncio.Event
    """Set when there may be tokens to query."""
    session: QuorumSession = field(init=False)
    _silent: dict[str, str] = field(default_factory=dict, init=False)
    """Endpoints that did not reply to the last resync, with the reason."""
    _agreeing: int = field(default=0, init=False)
    _retry_queue: RetryQueue = field(default_factory=RetryQueue)
    _agreed: dict[str, float] = field(default_factory=dict)
    """The last time that each endpoint had our block; endpoints without it are absent."""
    _began: float = -math.inf
    """The time at which the present resync began..."""
    _last: float = -math.inf
    """...and the one before."""
    _tips: deque[tuple[float, BlockRef]] = field(default_factory=lambda: deque(maxlen=TIPS))
    """Our tip at each resync, with its time."""

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
        """Query this endpoint over its session for as long as it is followed."""
        self.session.follow(FollowedVerifier(driver))
        self.doubted.set()
        try:
            yield
        finally:
            self.session.follow(None)

    def start(self, group: asyncio.TaskGroup) -> None:
        """Query and judge for as long as the group runs, with or without a followed endpoint."""
        self.session.verifiers.start(group)
        group.create_task(self._resync_forever(group), name="quorum resyncs")
        group.create_task(self._ask_forever(group), name="quorum questions")

    # -- questions about some tokens ---------------------------------------------------------------

    async def _ask_forever(self, group: asyncio.TaskGroup) -> None:
        limit = asyncio.Semaphore(IN_FLIGHT)
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.doubted.wait(), self._patience())
            self.doubted.clear()
            await limit.acquire()
            if (found := self._next_question()) is None:
                limit.release()
            else:
                group.create_task(self._ask(*found, limit), name="quorum question")

    def _patience(self) -> float | None:
        """Return the seconds until the next check without a wake-up; None: wait for the wake-up."""
        if self.quorum.pending and self._at() is None:
            return LOOK  # a walk that ends at its start causes no wake-up
        return RETRY[0] if self._retry_queue.postponed else None

    def _at(self) -> BlockRef | None:
        """Return the block to query at; None until the block that changed the tokens is our tip."""
        follower = self.state.follower
        tip, events = follower.tip, follower.timeline.events
        if tip is None or follower.walking or (events and events[-1].block_number > tip.number):
            return None
        return tip

    def _next_question(self) -> tuple[Question, States] | None:
        """Return the next question with the states that it is about, or None."""
        if (tip := self._at()) is None:
            return None
        states, left = self._retry_queue.take(self._waiting(tip.number), self.state.clock.monotonic())
        if left:
            self.doubted.set()
        if not states:
            return None
        tokens, policy = tuple(states.keys() - {CONTRACT}), self._policy()
        return Question(tip, tokens, contract=CONTRACT in states, policy=policy), states

    def _policy(self) -> Hash | None:
        """Return the hash of our policy, if there is one and its text is known."""
        policy = self.state.follower.registry.contract.policy
        return None if policy is None else policy.hash

    def _waiting(self, height: int) -> States:
        """Return the tokens to query at that height, or `CONTRACT`, with their state."""
        registry = self.state.follower.registry
        contract = {CONTRACT: registry.contract.claim} if self.quorum.contract.due(height) else {}
        return {**contract, **{token: registry.get(token) for token in self.quorum.questions(height)}}

    async def _ask(self, question: Question, states: States, limit: asyncio.Semaphore) -> None:
        """Query all endpoints; hold the slot until the question's tokens are settled or changed."""
        height, under_way = question.at.number, True

        def end() -> None:
            nonlocal under_way
            if under_way:
                under_way = False
                now = self.state.clock.monotonic()
                self._retry_queue.answered(states, self._waiting(height), now)
                limit.release()
                self.doubted.set()

        def on_reply(_: Reply) -> None:
            waiting = self._waiting(height)
            if not any(token in waiting and waiting[token] == state for token, state in states.items()):
                end()

        try:
            await self.session.query(question, self.session.all_verifiers(), DEADLINE, on_reply)
        finally:
            end()

    # -- resyncs -----------------------------------------------------------------------------------

    async def _resync_forever(self, group: asyncio.TaskGroup) -> None:
        """Begin a resync at every interval, even during one; earlier for a new endpoint."""
        pause = RETRY[0]
        while True:
            began, interval = self.state.clock.monotonic(), self.state.resync_interval
            self.state.fresh.clear()
            resync = group.create_task(self._resync(), name="quorum resync")
            await asyncio.wait([resync], timeout=interval)
            if resync.done() and not resync.result():
                if pause < RETRY[1]:
                    await self._wait_for_endpoint(min(pause, interval))
                else:  # the problem persists: a budget may slow further retries
                    ended = self.state.clock.monotonic()
                    await self._wait_until_resync(ended, min(pause, interval))
                pause = min(2 * pause, RETRY[1])
            else:
                pause = RETRY[0]
                await self._wait_until_resync(began, interval)

    async def _wait_until_resync(self, began: float, interval: float) -> None:
        """Wait for the end of the interval, which a budget may exceed, or for a new endpoint."""
        state = self.state
        while (left := state.until_resync(state.clock.monotonic() - began, interval)) > 0:
            await self._wait_for_endpoint(min(left, state.resync_interval))
            if state.fresh.is_set():
                return

    async def _wait_for_endpoint(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.state.fresh.wait(), max(seconds, 0.0))

    async def _resync(self) -> bool:
        """Query all tokens of the endpoints that are not still busy with the last resync.

        Returns whether a quorum confirmed our block, and at least as many endpoints replied: one of
        them is honest. Otherwise the next resync is early. An honest endpoint whose connection
        breaks during a resync then delays no revocation by a whole interval.
        """
        follower = self.state.follower
        if (tip := follower.tip) is None:
            return False
        asked = [x for x in self.session.all_verifiers() if x.name not in self.session.busy]
        known = tuple(follower.registry.nodes)
        question = Question(
            tip,
            known,
            True,
            earlier=self._earlier(),
            policy=self._policy(),
            logs_from=max(self.state.resynced_to - SAFE_DEPTH, 0),
        )
        self._last, self._began = self._began, self.state.clock.monotonic()
        replies: list[Reply] = []
        confirmed = False

        def on_reply(reply: Reply) -> None:
            nonlocal confirmed
            replies.append(reply)
            if reply.head is not None:
                self.state.lag.shown(reply.endpoint, reply.head, self.state.clock.monotonic())
            confirmed = self._confirms(tip, reply)

        in_time = await self.session.query(question, asked, RESYNC_DEADLINE, on_reply)
        self._judge_blocks(question, replies)
        answered = {x.endpoint for x in replies}
        silent = [x for x in asked if x.name not in answered]
        self._silent = {x.name: x.problem or "it does not answer in time" for x in silent}
        for each in silent:
            self._agreed.pop(each.name, None)
        self._agreeing = len(self._agreed)
        if not in_time:
            self._leave_silent(silent)
        await self.state.changed.put(Began())
        return confirmed and len(answered) >= self.quorum.needed

    def _earlier(self) -> tuple[int, str] | None:
        """Return our tip of `AGREED` ago as our chain has it now: a reorg may have replaced it.

        If our chain has none of our former tips, it was read again: then return the tip as it was.
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

    def _confirms(self, tip: BlockRef, reply: Reply) -> bool:
        """Confirm the registry once k endpoints have our block; return whether it is confirmed.

        After a start an endpoint must be followed as well: our block may be the stored one.
        """
        now = self.state.clock.monotonic()
        if reply.hash == tip.hash:
            self._agreed[reply.endpoint] = now
        else:
            self._agreed.pop(reply.endpoint, None)
        lately = now - self.state.resync_interval - RESYNC_DEADLINE
        # A budget may have delayed this resync. Replies to the last one then still count for the
        # report until this one ends, but confirm nothing.
        self._agreeing = sum(seen >= min(lately, self._last) for seen in self._agreed.values())
        agreeing = sum(seen >= lately for seen in self._agreed.values())
        known = self.state.members.synced is not None or self.state.problem is None
        if known and agreeing >= self.quorum.needed:
            self.state.members.confirmed()
            return True
        return False

    def _judge_blocks(self, question: Question, replies: Sequence[Reply]) -> None:
        needed, tip = self.quorum.needed, question.at
        claims = self.state.lag.overdue(tip, self.state.clock.monotonic())
        earlier = None if question.earlier is None else question.earlier[0]
        for name, reason in judge_blocks(needed, replies, earlier, claims).items():
            self.session.quarantine(name, reason)
        if without := lacking(needed, replies, earlier):
            self._discredit(without)

    def _discredit(self, honest: Collection[str]) -> None:
        """Read the registry again from an endpoint with other blocks: k endpoints lack ours."""
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
            followed.driver.end(EndpointError(f"{followed.name} did not reply to a resync within {seconds}"))
