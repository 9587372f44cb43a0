"""Reconciliation of the device's peers with the membership, by two paths with one plan language.

The fast path applies an event's deltas to the device at once, without reading it. The repair reads
everything, compares, applies the smallest plan, and reads back. It runs a moment after events and
at every resync, so a lost or wrong delta does not last. Removals that the mass removal guard holds
wait for a second reading of the chain.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from dstack_vpn.core.access.answers import Answers
from dstack_vpn.core.access.batch import Batch
from dstack_vpn.core.access.plan import Plan, differing, plan, plan_deltas
from dstack_vpn.core.model import DeviceState, PeerState, TokenId
from dstack_vpn.core.paths.moving import Evidence, strays
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.device.tunnel import Tunnel
from dstack_vpn.daemon.observe.changes import publish_plan
from dstack_vpn.daemon.peers.executor import PlanExecutor
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.daemon.peers.pending import PendingChanges
from dstack_vpn.daemon.peers.removal_guard import MassRemovalGuard
from dstack_vpn.errors import DeviceError, DeviceGoneError
from dstack_vpn.ports import Clock, Publish
from dstack_vpn.slices import slices

SLICE: Final = 250
"""The number of peers that are compared without yielding to the event loop."""
CONFIRM_PAUSE: Final = 5.0
"""Seconds between the beginnings of two readings, if the first has confirmed no held removal."""
RETRY: Final = 5.0
"""Seconds until a failed repair is tried again."""

Confirm = Callable[[Mapping[PublicKey, TokenId | None]], Awaitable[set[PublicKey]]]
"""Returns those of the keys that another reading of the chain reports as out; raises nothing."""


@dataclass(slots=True)
class Reconciler:
    """Plans every change of the device's peers."""

    members: Members
    tunnel: Tunnel
    executor: PlanExecutor
    removal_guard: MassRemovalGuard
    changes: PendingChanges
    answers: Answers
    """The peers that do not answer."""
    clock: Clock
    confirm: Confirm
    proven: Callable[[], Collection[PublicKey]]
    """Returns the peers whose endpoint is proven by their answers."""
    renewing: Callable[[], None]
    """Called before all peers are removed and set again."""
    applied: Callable[[], None]
    """Called when the device has taken the deltas of events, or has refused them."""
    observers: Sequence[Callable[[DeviceState], None]]
    """Called with every device state that equals the membership, after a repair if needed."""
    publish: Publish
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    """The last thousand durations from an event's arrival to the device's reply, in seconds."""
    filled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set after the first comparison that found the device correct."""
    compared_at: float | None = field(default=None, init=False)
    """The time of the last comparison that found the device correct (Unix seconds)."""
    _waiting: set[PublicKey] = field(default_factory=set)
    """The peers whose new endpoint waits until they stop answering at the old one."""

    def request_repair(self) -> None:
        """Request a comparison of everything a moment from now."""
        self.changes.repairs.request()

    async def may_move(self, peers: Mapping[PublicKey, PeerState]) -> bool:
        """Return whether a repair would move a peer.

        A waiting peer is silent, or a peer's endpoint strays into the tunnel.
        """
        if not self._waiting.isdisjoint(self.answers.overdue):
            return True
        allowed = self.members.policy.destinations
        async for part in slices(list(peers.values()), SLICE):
            if any(strays(peer, allowed) for peer in part):
                return True
        return False

    async def renew(self) -> None:
        """Remove every peer and set it again, without its session. Absorbs device errors."""
        await self._forget_sessions()
        await self.fill()

    async def fill(self) -> None:
        """Repair now, and request another repair if that fails. Absorbs device errors."""
        if not await self.repair() and self.members.known:
            self.request_repair()

    async def _forget_sessions(self) -> None:
        self.renewing()
        await self.executor.remove_all()

    # -- tasks -------------------------------------------------------------------------------------

    async def run_events(self) -> None:
        """Apply deltas to the device as they arrive. Absorbs device errors: a repair follows."""
        while True:
            await self.changes.work.wait()
            self.changes.work.clear()
            await self.tunnel.up.wait()
            batch = self.changes.take()
            async with self.executor.lock:
                await self._apply_deltas(batch)
            self.applied()

    async def run_repairs(self) -> None:
        """Compare and repair on request, after a moment of quiet; try again after device errors."""
        pause: float | None = None
        while True:
            await self.changes.repairs.due(pause)
            await self.tunnel.up.wait()
            pause = None if await self.repair() else RETRY

    async def run_confirmations(self) -> None:
        """Confirm held removals by a second reading of the chain.

        After a reading that confirmed some, the next one follows at once: the rest may be removals
        that were held while the reading was under way.
        """
        guard = self.removal_guard
        while True:
            await guard.engaged.wait()
            if guard.held:
                began = self.clock.monotonic()
                if out := await self.confirm(guard.doubtful(self.executor.present)):
                    guard.release(out)
                    await self.fill()
                else:
                    left = began + CONFIRM_PAUSE - self.clock.monotonic()
                    await asyncio.sleep(max(left, CONFIRM_PAUSE / 5))
                    guard.forget_what_stays(self.executor.present)
            guard.settle()

    async def repair(self) -> bool:
        """Make the device equal to the membership, and read back; return whether it is equal.

        Before the registry is known, from the chain or from the store, nothing is changed: an
        adopted interface keeps its peers.
        """
        if not self.members.known:
            return False
        try:
            with self.executor.changed_since() as changed:
                state, keys = await self._read(changed)
                async with self.executor.lock:
                    steps = self._plan(state, keys, changed)
                    if steps:
                        tokens = self._tokens_of(steps)
                        await self.executor.carry_out(steps)
                        self._report(steps, tokens, None)
            if steps:
                state, steps = await self._read_back()
        except DeviceError as error:
            self.tunnel.fail(str(error))
            if isinstance(error, DeviceGoneError):
                self.tunnel.lost()
            return False
        if steps:
            self.tunnel.fail(f"the device did not take {len(steps.steps)} of the changes it was given")
            return False
        self.tunnel.works()
        self.compared_at = self.clock.now()
        self.changes.keep_reasons(self.executor.present, self.removal_guard.held)
        self.filled.set()
        for observer in self.observers:
            observer(state)
        return True

    # -- fast path ---------------------------------------------------------------------------------

    async def _apply_deltas(self, batch: Batch) -> None:
        steps = self.removal_guard.check(
            plan_deltas(batch.deltas.values(), self.proven()), self.executor.present
        )
        tokens = self._tokens_of(steps)
        try:
            await self.executor.carry_out(steps)
        except DeviceGoneError as error:
            self.tunnel.fail(str(error))
            self.tunnel.lost()
            return
        except DeviceError as error:
            self.tunnel.fail(str(error))
            self.request_repair()
            return
        latency = self.clock.monotonic() - batch.seen
        if steps:
            self.latencies.append(latency)
        self._report(steps, tokens, latency)

    # -- both paths --------------------------------------------------------------------------------

    async def _read(self, changed: set[PublicKey]) -> tuple[DeviceState, list[PublicKey]]:
        """Return the device's state, and the peers that may need a change.

        ``changed`` is emptied if the device is read a second time.
        """
        began = self.clock.monotonic()
        state = await self.tunnel.device.read()
        self.changes.repairs.took(self.clock.monotonic() - began)
        if await self.tunnel.hold(state):
            await self._forget_sessions()  # they ended with the key, and the peers don't know
            changed.clear()
            state = await self.tunnel.device.read()
        return state, await self._differing(state)

    async def _differing(self, state: DeviceState) -> list[PublicKey]:
        """Return the peers that may need a change; yield to the event loop between slices."""
        wanted = self.members.membership.peers
        keys = [*wanted, *(state.peers.keys() - wanted.keys())]
        found: list[PublicKey] = []
        async for part in slices(keys, SLICE):
            found += differing(state.peers, wanted, part, self.members.policy.destinations)
        return found

    async def _read_back(self) -> tuple[DeviceState, Plan]:
        """Return the device's state now, and the steps of a repair that are missing on it.

        If an event has changed the device since, the plan is empty: that event's repair checks it.
        """
        applied = self.executor.applied
        state = await self.tunnel.device.read()
        keys = await self._differing(state)
        async with self.executor.lock:
            if self.changes.batch.deltas or self.executor.applied != applied:
                return state, Plan()
            return state, self._compare(state, keys).keeping(self.removal_guard.held)

    def _plan(self, state: DeviceState, keys: list[PublicKey], changed: Collection[PublicKey]) -> Plan:
        """Return the plan for these peers from a reading, without the removals that are held.

        Peers that have changed since the reading began are left to the repair that follows their
        event.
        """
        self.executor.found(state, changed)
        steps = self._compare(state, [key for key in keys if key not in changed])
        self._waiting = set(steps.waiting)
        return self.removal_guard.check(steps, self.executor.present)

    def _compare(self, state: DeviceState, keys: list[PublicKey]) -> Plan:
        wanted = self.members.membership
        part = replace(state, peers={key: state.peers[key] for key in keys if key in state.peers})
        peers = {key: wanted.peers[key] for key in keys if key in wanted.peers}
        allowed = self.members.policy.destinations
        evidence = Evidence(self.clock.now(), self.answers.overdue, self.proven(), allowed)
        return plan(part, peers, self.executor.sent, self.changes.reasons, evidence)

    def _tokens_of(self, steps: Plan) -> dict[PublicKey, TokenId | None]:
        """Return the token of each peer in the plan; call it before the peers are removed."""
        return {key: self.executor.token_of(key) for key in (step.change.public_key for step in steps.steps)}

    def _report(self, steps: Plan, tokens: Mapping[PublicKey, TokenId | None], latency: float | None) -> None:
        follower = self.members.follower
        block = None if follower.tip is None else follower.tip.number
        publish_plan(
            self.publish,
            steps,
            tokens=tokens,
            registry=follower.registry,
            block=block,
            latency=latency,
            causes=self.members.causes,
        )
