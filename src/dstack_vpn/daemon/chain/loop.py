"""Following the chain over the available endpoints: one session after another.

When a session fails, the next one starts from where the registry stands; the last members stay as
they are all the while. A second reading, when needed, comes from another endpoint if one is
available.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from dstack_vpn.core.access.control import EVERYONE
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import BlockRef, ChainIdentity, TokenId
from dstack_vpn.core.observe.events import BrakeContradicted
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.chain.progress import keep_up
from dstack_vpn.daemon.chain.quorum_checker import QuorumChecker
from dstack_vpn.daemon.chain.session import SessionDriver
from dstack_vpn.daemon.chain.state import ChainState
from dstack_vpn.daemon.chain.verifiers import LOOK, PATIENCE
from dstack_vpn.errors import BehindError, ChainError, EndpointError, WrongChainError
from dstack_vpn.ports import ChainSession, ChainSource

_log = structlog.get_logger(component="chain")

SECOND_READING: Final = 30.0
"""Seconds for another endpoint to return the whole registry."""


@dataclass(slots=True)
class ChainLoop:
    """The loop that follows the chain."""

    source: ChainSource
    state: ChainState
    quorum_checker: QuorumChecker | None
    """Queries the other endpoints; None if no quorum is needed."""
    identity: ChainIdentity | None = field(default=None, init=False)
    """The chain and contract that the state directory holds; every session must match it."""

    def restore(self, identity: ChainIdentity) -> None:
        """Follow this chain and contract only."""
        self.identity = identity

    async def run(self) -> None:
        """Follow until cancelled. Absorbs `ChainError`: the next session then begins."""
        async with asyncio.TaskGroup() as group:
            if self.quorum_checker is not None:
                self.quorum_checker.start(group)
            while True:
                try:
                    async with self.source.session() as session:
                        await self._follow(session)
                except ChainError as error:
                    self.state.down(error)

    async def confirm(self, held: Mapping[PublicKey, TokenId | None]) -> set[PublicKey]:
        """Return the keys that a second reading reports as out, by another endpoint if possible.

        With a quorum one other endpoint is enough for a removal, regardless of the rest. After the
        first reply the other endpoints have `PATIENCE`: one that can't be reached would otherwise
        delay the next reading.
        """
        endpoint, quorum = self.state.endpoint or "", self.state.members.quorum
        if quorum is None:
            return await self._read_again(self.source.other(than=endpoint), held)
        disputed = set(quorum.disputed)
        out = {key for key, token in held.items() if token in disputed}
        found: asyncio.Queue[set[PublicKey]] = asyncio.Queue()
        names = self.source.others(than=endpoint)

        async def ask(name: str) -> None:
            found.put_nowait(await self._read_again(self.source.to(name), held))

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(name)) for name in names]
            with suppress(TimeoutError):
                async with asyncio.timeout(None) as rest:
                    for _ in tasks:
                        if out == held.keys():
                            break
                        out |= await found.get()
                        if rest.when() is None:
                            rest.reschedule(asyncio.get_running_loop().time() + PATIENCE)
            for task in tasks:
                task.cancel()
        return out

    async def _read_again(
        self, opened: AbstractAsyncContextManager[ChainSession], held: Mapping[PublicKey, TokenId | None]
    ) -> set[PublicKey]:
        """Read the registry over another session; absorbs `ChainError`."""
        try:
            async with asyncio.timeout(SECOND_READING), opened as session:
                self._check(session)
                head = await self._head_of(session)
                observed = await session.read_all(head)
                if observed is None:
                    tokens = sorted({token for token in held.values() if token is not None})
                    observed = await session.read_tokens(tokens, head)
                name = session.name
        except (ChainError, TimeoutError) as error:
            _log.error("brake.unconfirmed", problem=str(error) or "the endpoint has not answered in time")
            return set()
        registry = Registry.of(x.node for x in observed if x.node is not None)
        # A state that was just read does not always include the time of its last key change.
        access = self.state.members.access_over(registry)
        access = replace(access, height=head.number, confirmations=0, quorum=None, admission=EVERYONE)
        standing = {key for key in held if access.decide(key, self.state.members.now()).granted}
        if standing:
            self.state.publish(BrakeContradicted(name, len(standing)))
        return held.keys() - standing

    async def _head_of(self, session: ChainSession) -> BlockRef:
        """Return another endpoint's head; an endpoint below our tip has `PATIENCE` to reach it."""
        tip, ends = self.state.follower.tip, self.state.clock.monotonic() + PATIENCE
        head = await session.head()
        while tip is not None and head.number < tip.number and self.state.clock.monotonic() < ends:
            await asyncio.sleep(LOOK)
            head = await session.head()
        return head

    async def _follow(self, session: ChainSession) -> None:
        """Run one session, from its first head to the error that ends it."""
        self._check(session)
        self.state.follower.abandon()
        tip = self.state.follower.tip
        try:
            async with asyncio.TaskGroup() as group:
                driver = SessionDriver(self.state, session, group)
                group.create_task(driver.pump(), name="chain facts")
                group.create_task(driver.pump_polls(), name="chain polls")
                group.create_task(driver.until_ended(), name="chain end")
                progress = keep_up(self.state, session.name, lambda: self._has_others(session))
                group.create_task(progress, name="chain progress")
                if self.quorum_checker is None:
                    await driver.begin()
                    group.create_task(driver.resync_forever(), name="resync")
                    await driver.drive()
                else:
                    group.create_task(driver.settle_forever(), name="chain finality")
                    with self.quorum_checker.following(driver):
                        await driver.begin()
                        await driver.drive()
        except BaseExceptionGroup as errors:
            if (found := errors.subgroup(ChainError)) is None or found.exceptions != errors.exceptions:
                raise
            error: BaseException = found
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            if isinstance(error, EndpointError) and self._is_no_progress(tip):
                error = BehindError(str(error))
            # A single error, because the source handles it by its type.
            raise error from None

    def _is_no_progress(self, tip: BlockRef | None) -> bool:
        """Return whether the session ended at its first tip, and an endpoint has newer blocks."""
        now = self.state.follower.tip
        seconds, _ = self.state.lag.behind(tip, self.state.clock.monotonic())
        return tip is not None and now is not None and now.number <= tip.number and seconds > 0.0

    def _has_others(self, session: ChainSession) -> bool:
        return bool(self.source.others(than=session.name))

    def _check(self, session: ChainSession) -> None:
        seen, known = session.identity, self.identity
        if known is not None and seen != known:
            raise WrongChainError(
                f"{session.name} serves contract {seen.contract} on chain {seen.chain_id} with genesis "
                f"{seen.genesis_hash[:10]}…, but STATE_DIR holds contract {known.contract} on chain "
                f"{known.chain_id} with genesis {known.genesis_hash[:10]}…: another chain, or a wiped one. "
                "The last peers are kept. If this is intended, stop the daemon and empty its STATE_DIR"
            )
        self.identity = seen
