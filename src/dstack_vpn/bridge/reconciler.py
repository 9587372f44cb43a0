"""Keeps the device's peers equal to the membership, by two paths with one plan language.

Fast: the deltas of an event go to the device at once, without reading it. Sure: read everything, compare,
apply the smallest plan, read back; this follows events by a moment and every audit, so that a lost or wrong
delta never lives long. `carrier` says in which order, and what happens to what the device refuses; what
`brake` holds back waits until the chain was read a second time.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import structlog

from dstack_vpn.bridge.brake import Brake
from dstack_vpn.bridge.carrier import Carrier
from dstack_vpn.bridge.debounce import Debounce
from dstack_vpn.bridge.members import Members
from dstack_vpn.bridge.report import report
from dstack_vpn.bridge.slices import slices
from dstack_vpn.bridge.tunnel import Tunnel
from dstack_vpn.core.answers import Answers
from dstack_vpn.core.batch import Batch
from dstack_vpn.core.desired import Delta
from dstack_vpn.core.health import Facts
from dstack_vpn.core.keys import PublicKey
from dstack_vpn.core.model import (
    DeviceState,
    PeerChange,
    PeerState,
    RemovePeer,
    SetPeer,
    SocketAddress,
    TokenId,
)
from dstack_vpn.core.moving import Evidence, strays
from dstack_vpn.core.plan import Plan, Step, differing, plan, plan_deltas
from dstack_vpn.errors import DeviceError, DeviceGoneError
from dstack_vpn.ports import Announce, Clock, nobody

_log = structlog.get_logger(component="device")

SLICE: Final = 500
"""Peers that are compared without a pause."""
CONFIRM_PAUSE: Final = 5.0
"""Seconds between attempts to have held removals confirmed."""
RETRY: Final = 5.0
"""Seconds after which a repair that failed is tried again."""

_KEEPALIVE: Final = 25
"""Seconds, for a moment."""

Places: TypeAlias = Mapping[PublicKey, SocketAddress | None]
"""Where to send for each peer; None: to where WireGuard has it."""
Confirm = Callable[[Mapping[PublicKey, TokenId | None]], Awaitable[set[PublicKey]]]
"""Ask another reading of the chain which of these keys are really out; raises nothing."""


@dataclass(slots=True)
class Reconciler:
    """The only one who changes peers on the device."""

    members: Members
    tunnel: Tunnel
    facts: Facts
    clock: Clock
    confirm: Confirm
    repaired: Callable[[DeviceState], None] = field(default=lambda state: None)
    """Told of every device state that was found, or made, to be as it should be."""
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    """Seconds from an event's arrival to the device's acknowledgement; the last thousand."""
    announce: Announce = nobody
    applied: int = 0
    """Changes that the device has acknowledged."""
    answers: Answers = field(default_factory=Answers)
    """Which peers do not answer."""
    proven: Callable[[], Collection[PublicKey]] = frozenset
    """The peers whose endpoint was chosen by what they answer to."""
    _waiting: set[PublicKey] = field(default_factory=set)
    """The peers whose new endpoint waits until they stop answering at the old one."""
    _batch: Batch = field(default_factory=Batch)
    _sent: dict[PublicKey, SocketAddress] = field(default_factory=dict)
    _present: dict[PublicKey, TokenId | None] = field(default_factory=dict)
    """The peers that the device has, as far as we know, and the token that each stands for."""
    _reasons: dict[PublicKey, str] = field(default_factory=dict)
    _brake: Brake = field(init=False)
    carrier: Carrier = field(init=False)
    _work: asyncio.Event = field(default_factory=asyncio.Event)
    _repairs: Debounce = field(init=False)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self._brake = Brake(self.members, self.facts, self.clock)
        self._repairs = Debounce(self.clock)
        self.carrier = Carrier(self.tunnel, self._note, self._token_of)

    def tell(self, announce: Announce) -> None:
        """Whom to tell of what happens."""
        self.announce = self._brake.announce = self.carrier.announce = announce

    def submit(self, deltas: list[Delta], seen: float) -> None:
        """Take the deltas of an event that was seen at ``seen`` (monotonic seconds).

        Without any, the device is only compared.
        """
        if deltas:
            self._batch.add(deltas, seen)
            self._reasons |= {delta.public_key: delta.reason for delta in deltas}
            self._work.set()
        self._repairs.request()

    def request_repair(self) -> None:
        """Have everything compared, a moment from now."""
        self._repairs.request()

    def may_move(self, peers: Mapping[PublicKey, PeerState]) -> bool:
        """Whether a repair would move a peer: one that waits is silent, or one strays into the tunnel."""
        allowed = self.members.policy.destinations
        silent = not self._waiting.isdisjoint(self.answers.overdue)
        return silent or any(strays(peer, allowed) for peer in peers.values())

    async def point(self, key: PublicKey, endpoint: SocketAddress) -> None:
        """Send a peer's endpoint again: the device has followed the peer elsewhere. Absorbs device errors."""
        async with self._lock:
            peer = self.members.membership.peers.get(key)
            if peer is not None and peer.endpoint == endpoint and self.tunnel.up.is_set():
                with suppress(DeviceError):
                    await self.tunnel.device.apply([SetPeer(key, endpoint)])

    async def initiate(self, places: Places, *, anew: bool = False) -> None:
        """Have WireGuard send these peers a handshake initiation, to these places. Absorbs device errors.

        With ``anew`` they are set anew before: WireGuard sends a peer one initiation in 5 s, and a new peer
        has had none. Whoever is no member by now is left out: nothing of this brings a peer back.
        """
        async with self._lock:
            wanted = self.members.membership.peers
            peers = {key: wanted[key] for key in places if key in wanted}
            if not peers or not self.tunnel.up.is_set():
                return
            fresh: list[PeerChange] = []
            for key in peers if anew else ():
                fresh += [RemovePeer(key), SetPeer(key, allowed_ips=peers[key].allowed_ips)]
            # A keepalive that is turned on is sent at once, and with it an initiation.
            off = [SetPeer(key, places[key], keepalive=0) for key in peers]
            on = [SetPeer(key, keepalive=_KEEPALIVE) for key in peers]
            as_it_was = [SetPeer(key, keepalive=peer.keepalive) for key, peer in peers.items()]
            with suppress(DeviceError):
                await self.tunnel.device.apply([*fresh, *off, *on])
                await self.tunnel.device.apply(as_it_was)

    async def renew(self) -> None:
        """Take every peer away and set it again, without its session. Absorbs device errors."""
        async with self._lock:
            with suppress(DeviceError):
                await self.tunnel.device.apply([RemovePeer(key) for key in self._present])
                self._present, self._sent = {}, {}
        await self.repair()

    # -- tasks ----------------------------------------------------------------------------------------

    async def run_events(self) -> None:
        """Carry deltas to the device as they come. Absorbs device errors: the repair tries again."""
        while True:
            await self._work.wait()
            self._work.clear()
            await self.tunnel.up.wait()
            batch, self._batch = self._batch, Batch()
            async with self._lock:
                await self._apply_deltas(batch)

    async def run_repairs(self) -> None:
        """Compare and repair when asked to, after a moment of quiet; tries again after device errors."""
        pause: float | None = None
        while True:
            await self._repairs.due(pause)
            await self.tunnel.up.wait()
            pause = None if await self.repair() else RETRY

    async def run_confirmations(self) -> None:
        """Have held removals confirmed by a second reading of the chain."""
        while True:
            await self._brake.engaged.wait()
            if self._brake.held and (out := await self.confirm(self._brake.doubtful(self._present))):
                self._brake.release(out)
                await self.repair()
            self._brake.tell()
            if self._brake.held:
                await asyncio.sleep(CONFIRM_PAUSE)
                self._brake.forget_what_stays(self._present)

    async def repair(self) -> bool:
        """Make the device equal to the membership, and read back; False where that did not come about.

        Before the registry is known, from the chain or from the store, nothing is touched: an interface
        that was adopted keeps its peers.
        """
        if self.facts.synced is None and not self.facts.stale:
            return False
        try:
            began = self.clock.monotonic()
            state = await self.tunnel.device.read()
            self._repairs.cost = self.clock.monotonic() - began
            if await self.tunnel.hold(state):
                state = await self.tunnel.device.read()
            keys = await self._differing(state)
            async with self._lock:
                steps = self._plan(state, keys)
                if steps:
                    tokens = self._tokens_of(steps)
                    await self.carrier.carry_out(steps)
                    self._report(steps, tokens, None)
            if steps:
                state, steps = await self._read_back()
        except DeviceError as error:
            self._trouble(str(error))
            if isinstance(error, DeviceGoneError):
                self.tunnel.lost()
            return False
        if steps:
            self._trouble(f"the device did not take {len(steps.steps)} of the changes it was given")
            return False
        self.facts.device_problem, self.facts.applied = None, self.clock.now()
        self._reasons = {
            k: why for k, why in self._reasons.items() if k in self._present or k in self._brake.held
        }
        self.repaired(state)
        return True

    # -- fast path ------------------------------------------------------------------------------------

    async def _apply_deltas(self, batch: Batch) -> None:
        steps = self._brake.check(plan_deltas(batch.deltas.values(), self.proven()), self._present)
        tokens = self._tokens_of(steps)
        try:
            await self.carrier.carry_out(steps)
        except DeviceGoneError as error:
            self._trouble(str(error))
            self.tunnel.lost()
            return
        except DeviceError as error:
            self._trouble(str(error))
            self.request_repair()
            return
        latency = self.clock.monotonic() - batch.seen
        if steps:
            self.latencies.append(latency)
        self._report(steps, tokens, latency)

    # -- both paths -----------------------------------------------------------------------------------

    async def _differing(self, state: DeviceState) -> list[PublicKey]:
        """The peers that may need a change; a few hundred at a time, so that no event waits for thousands."""
        wanted = self.members.membership.peers
        keys = [*wanted, *(key for key in state.peers if key not in wanted)]
        found: list[PublicKey] = []
        async for part in slices(keys, SLICE):
            found += differing(state.peers, wanted, part, self.members.policy.destinations)
        return found

    async def _read_back(self) -> tuple[DeviceState, Plan]:
        """What the device has now, and what of a repair it did not take.

        Where an event has changed it meanwhile, the repair that the event asked for will tell.
        """
        applied = self.applied
        state = await self.tunnel.device.read()
        keys = await self._differing(state)
        async with self._lock:
            if self._batch.deltas or self.applied != applied:
                return state, Plan()
            return state, self._compare(state, keys).keeping(self._brake.held)

    def _plan(self, state: DeviceState, keys: list[PublicKey]) -> Plan:
        """The plan for these peers, from what was just read, less what the brake holds."""
        self._present = {key: self._token_of(key) for key in state.peers}
        steps = self._compare(state, keys)
        self._waiting = set(steps.waiting)
        return self._brake.check(steps, self._present)

    def _compare(self, state: DeviceState, keys: list[PublicKey]) -> Plan:
        wanted = self.members.membership
        part = replace(state, peers={key: state.peers[key] for key in keys if key in state.peers})
        peers = {key: wanted.peers[key] for key in keys if key in wanted.peers}
        allowed = self.members.policy.destinations
        evidence = Evidence(self.clock.now(), self.answers.overdue, self.proven(), allowed)
        return plan(part, peers, self._sent, self._reasons, evidence)

    def _note(self, steps: tuple[Step, ...]) -> None:
        """Remember what the device has acknowledged."""
        for step in steps:
            match step.change:
                case RemovePeer(key):
                    self._present.pop(key, None)
                    self._sent.pop(key, None)
                    self._brake.released.discard(key)
                case SetPeer(key, endpoint):
                    self._present[key] = self.members.membership.tokens.get(key)
                    if endpoint is not None:
                        self._sent[key] = endpoint
        self.applied += len(steps)

    def _tokens_of(self, steps: Plan) -> dict[PublicKey, TokenId | None]:
        """Whose peers these are; to be asked before they are gone."""
        return {key: self._token_of(key) for key in (step.change.public_key for step in steps.steps)}

    def _token_of(self, key: PublicKey) -> TokenId | None:
        return self.members.membership.tokens.get(key, self._present.get(key))

    def _report(self, steps: Plan, tokens: Mapping[PublicKey, TokenId | None], latency: float | None) -> None:
        follower = self.members.follower
        block = None if follower.tip is None else follower.tip.number
        report(
            self.announce,
            steps,
            tokens=tokens,
            registry=follower.registry,
            block=block,
            latency=latency,
            causes=self.members.causes,
        )

    def _trouble(self, problem: str) -> None:
        if self.facts.device_problem != problem:
            self.facts.device_problem, self.facts.device_since = problem, self.clock.now()
        _log.error("device.trouble", problem=problem)
