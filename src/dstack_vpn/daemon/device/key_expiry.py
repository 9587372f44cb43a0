"""Key expiry: our own key is replaced before it is older than KEY_MAX_AGE.

`core.wireguard.key_age` decides when. A `ports.KeyChanger` makes the next key and registers it, and
`daemon.device.key_rotation` adopts it. So no failure here can lose the key in use.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import TokenId
from dstack_vpn.core.observe.events import KeyChangeFailed
from dstack_vpn.core.observe.reports import KeyReport
from dstack_vpn.core.wireguard.key_age import KeyAction, Look, Schedule, age_of
from dstack_vpn.daemon.chain.loop import ChainLoop
from dstack_vpn.errors import AdminError, ChainError
from dstack_vpn.ports import KeyChanger, KeyRing, Publish

_log = structlog.get_logger(component="node")

EVERY: Final = 5.0
"""Seconds between checks of the clock."""
ASK: Final = 20.0
"""Seconds for an endpoint to return the time of the block that set our key."""
ASK_AGAIN: Final = 60.0
"""Seconds until that query is repeated after a failure."""


@dataclass(slots=True)
class KeyExpiry:
    """Measures our key's age, and rotates the key when it is due."""

    chain: ChainLoop
    ring: KeyRing
    changer: KeyChanger
    schedule: Schedule
    publish: Publish
    draw: Callable[[], float] = random.random
    age: float | None = field(default=None, init=False)
    """Seconds; None: not known yet, or the registry has no key of ours."""
    problem: str | None = field(default=None, init=False)
    """The reason that the last attempt failed, or None."""
    _announced: int = field(default=0, init=False)
    _failed: int = field(default=0, init=False)
    _failures: int = field(default=0, init=False)
    _block: int | None = None
    """The block that set our key."""
    _set_at: float | None = None
    """The time of that block (Unix seconds); None until an endpoint has returned it."""
    _ask_at: float = 0.0

    def __post_init__(self) -> None:
        self.schedule = self.schedule.started(self.chain.state.clock.monotonic())

    def report(self) -> KeyReport:
        """Report for health and metrics."""
        return KeyReport(
            longest=self.schedule.longest,
            due=self.schedule.due,
            hindrance=self.changer.hindrance,
            age=self.age,
            failures=self._failures,
            problem=self.problem,
            announced=self._announced,
            failed=self._failed,
        )

    async def run(self) -> None:
        """Check the key's age until cancelled. Retries after `AdminError` and `ChainError`."""
        before = KeyAction.REST
        while True:
            await asyncio.sleep(EVERY)
            verdict, own = await self._check()
            if verdict is KeyAction.RENEW and own is not None:
                await self._renew(own.token_id)
            elif verdict is KeyAction.REMIND and before is not KeyAction.REMIND:
                _log.warning("key.old", age=round(self.age or 0), problem=self.changer.hindrance)
            before = verdict

    async def _check(self) -> tuple[KeyAction, Node | None]:
        state = self.chain.state
        own = state.members.own_node
        followed = state.members.synced is not None and state.problem is None
        if own is not None and followed:
            await self._date(own.key_since.block)
        self.age = None if own is None else self._age(own.key_since.block)
        if self.age is not None and self.age < self.schedule.due:
            self._failures, self.problem = 0, None  # it was changed, by us or by hand
        able = self.changer.hindrance is None
        look = Look(state.clock.monotonic(), self.age, own is not None and followed, able)
        return self.schedule.decide(look), own

    def _age(self, block: int) -> float | None:
        """Return the age of the key that ``block`` set, or None if its time is unknown.

        If blocks come at a known pace, the newest one gives the present time: both times are then
        from one clock.
        """
        if block != self._block or self._set_at is None:
            return None
        state, since = self.chain.state, self.ring.made()
        now, tip = state.clock.now(), state.follower.tip
        by_chain = tip.timestamp if state.members.paced and tip is not None and tip.timestamp else now
        return age_of(registry=by_chain - self._set_at, file=None if since is None else now - since)

    async def _date(self, block: int) -> None:
        """Query the time at which our key was set, once for each key."""
        now = self.chain.state.clock.monotonic()
        if (block == self._block and self._set_at is not None) or now < self._ask_at:
            return
        self._block, self._set_at = block, None
        self._ask_at = now + ASK_AGAIN
        name = self.chain.state.endpoint or ""
        try:
            async with asyncio.timeout(ASK), self.chain.source.to(name) as session:
                header = await session.header(block)
        except (ChainError, TimeoutError) as error:
            _log.info("key.undated", block=block, problem=str(error) or "no answer in time")
            return
        if header is not None:
            self._set_at, self._ask_at = float(header.timestamp), 0.0

    async def _renew(self, token: TokenId) -> None:
        _log.info("key.renewing", age=round(self.age or 0), tries=self._failures)
        try:
            await self.changer.change(token)
        except AdminError as error:
            self._has_failed(str(error))
        else:
            self.schedule = self.schedule.announced(self.chain.state.clock.monotonic())
            self._failures, self.problem = 0, None
            self._announced += 1
            _log.info("key.announced", token=token)

    def _has_failed(self, problem: str) -> None:
        now = self.chain.state.clock.monotonic()
        self.schedule = self.schedule.failed(now, self.draw())
        self._failures, self.problem = self.schedule.failures, problem
        self._failed += 1
        pause = round(self.schedule.ready_at - now)
        self.publish(KeyChangeFailed(self._failures, problem, pause))
