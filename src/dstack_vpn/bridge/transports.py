"""How each peer is reached: by UDP or over relays, chosen anew as the network changes (`core.transport`).

Members ask `where` to send for a peer, and are told when that has become another. A peer's relay is made when
it is first needed, listens on a loopback port, and goes when UDP has carried for a while.

On the way back to UDP nothing is lost, and nothing may arrive late: WireGuard follows a peer to wherever its
last packet came from, so one that still comes by the relay would turn it back. Such packets are held until
the peer must have seen that we are on UDP again, and then WireGuard is told once more.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from dstack_vpn.bridge.endpoints import EndpointBook
from dstack_vpn.core.health import Facts
from dstack_vpn.core.keys import PublicKey
from dstack_vpn.core.model import DeviceState, PeerState, SocketAddress
from dstack_vpn.core.reach import Reach
from dstack_vpn.core.transport import Course, Transport, Way, usable
from dstack_vpn.core.wgwire import SESSION_LIFE
from dstack_vpn.errors import RelayError
from dstack_vpn.ports import Clock, PeerRelay

_log = structlog.get_logger(component="relay")
_chance: Final = random.SystemRandom().random

TICK: Final = 1.0
"""Seconds between looks at the peers that can be reached both ways..."""
READ_SHARE: Final = 50
"""...or so many times as long as reading the device takes."""
ASK: Final = 30.0
"""Seconds between questions whether the system sends UDP to a peer without a session."""
LINGER: Final = 60.0
"""Seconds by UDP after which a relay goes."""
HOLD: Final = (0.1, 0.5)
"""Seconds for which packets that still come by the relay are held: at least, and at most."""
COUNTED: Final = ("datagrams_up", "datagrams_down", "bytes_up", "bytes_down", "reconnects", "stalls")
"""Of a relay's counters, those that are added up."""
SETTLE: Final = 0.02
"""Seconds for what was held to reach WireGuard."""


@dataclass(slots=True, eq=False)
class _Peer:
    reach: Reach
    course: Course | None
    """None: there is no choice."""
    relay: PeerRelay | None = None
    running: "asyncio.Task[None] | None" = None
    problem: str | None = None
    """Why it has no relay."""
    ask_at: float = 0.0
    """When to ask again whether UDP goes out."""
    heard_at: SocketAddress | None = None
    """The UDP address at which it was heard last."""

    @property
    def way(self) -> Way:
        return Way.RELAY if self.course is None else self.course.way


@dataclass(slots=True)
class Transports:
    """The ways to all peers that have relays."""

    transport: Transport
    names: EndpointBook
    clock: Clock
    make_relay: Callable[[Reach], Awaitable[PeerRelay]]
    """Raises `RelayError`."""
    can_send: Callable[[SocketAddress], bool]
    """Whether the system sends UDP there at all."""
    read: Callable[[], Awaitable[DeviceState | None]] | None = None
    """Reads the device; None where that can't be done now."""
    changed: Callable[[Iterable[PublicKey]], None] = field(default=lambda keys: None)
    """Told of peers to be reached elsewhere."""
    rerouted: Callable[[PublicKey, Way], None] = field(default=lambda key, way: None)
    """Told of every change of ways, once it is decided."""
    point: Callable[[PublicKey, SocketAddress], Awaitable[None]] | None = None
    """Has WireGuard told once more where a peer is."""
    facts: Facts | None = None
    """Told which relays get nothing through."""
    in_use: Callable[[], Collection[PublicKey]] = field(default=tuple)
    """The peers that there are."""
    _peers: dict[PublicKey, _Peer] = field(default_factory=dict)
    _gone: list[_Peer] = field(default_factory=list)
    _past: Counter[str] = field(default_factory=Counter)
    """What relays that are gone have done."""
    _work: asyncio.Event = field(default_factory=asyncio.Event)
    _group: asyncio.TaskGroup | None = None

    def where(self, key: PublicKey, reach: Reach) -> SocketAddress | None:
        """Where WireGuard is to send for a peer; None: not known yet, or nowhere. Implements `Lookup`."""
        allowed = usable(reach, self.transport)
        if not allowed.relays:
            self._forget(key)
            return self.names.by_udp(key, allowed)
        peer = self._peers.get(key)
        if peer is None or (peer.reach.udp is None) != (allowed.udp is None):
            self._forget(key)
            peer = self._peers[key] = _Peer(allowed, None if allowed.udp is None else Course())
        elif peer.reach != allowed:
            self._changed(peer, allowed)
        if peer.way is Way.UDP:
            return self.names.by_udp(key, allowed)
        if peer.relay is None:
            self._work.set()
        return None if peer.relay is None else peer.relay.address

    def proven(self) -> set[PublicKey]:
        """The peers whose way was chosen by what they answer to: data may be sent there at once.

        A relay has accepted our connection, and one that gets no answers is left within seconds.
        """
        return {key for key, peer in self._peers.items() if self._is_proven(key, peer)}

    def _is_proven(self, key: PublicKey, peer: _Peer) -> bool:
        course = peer.course
        if course is None or course.way is Way.RELAY:
            return course is not None
        return course.proven and peer.heard_at == self.names.by_udp(key, peer.reach)

    @staticmethod
    def _changed(peer: _Peer, allowed: Reach) -> None:
        if peer.course is not None and peer.reach.udp != allowed.udp:
            peer.course.probe_soon()
        peer.reach = allowed
        if peer.relay is not None:
            peer.relay.retarget(allowed.relays)

    def describe(self, key: PublicKey) -> dict[str, Any]:
        """How a peer is reached, as JSON can hold it."""
        peer = self._peers.get(key)
        if peer is None or peer.way is Way.UDP or peer.relay is None:
            return {"transport": None if peer is not None and peer.way is Way.RELAY else "udp", "relay": None}
        seen = peer.relay.snapshot()
        upstream = seen["upstream"]
        return {"transport": None if upstream is None else upstream.partition(":")[0], "relay": seen}

    def describe_all(self) -> dict[PublicKey, dict[str, Any]]:
        """The same for every peer that has relays; the others are reached by UDP."""
        return {key: self.describe(key) for key in self._peers}

    def carried(self, described: Mapping[PublicKey, Mapping[str, Any]]) -> Counter[str]:
        """What all relays to peers have done since the start, those that are gone included."""
        found = Counter(self._past)
        for key, peer in self._peers.items():
            if peer.relay is not None:
                # One that is not used any more, but has not gone yet, is not described.
                found.update(_counted(described[key]["relay"] or peer.relay.snapshot()))
        return found

    # -- tasks ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Choose the ways until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            due = self.clock.monotonic() + TICK
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._work.wait(), max(due - self.clock.monotonic(), 0))
                self._work.clear()
                if self.clock.monotonic() >= due:
                    due = await self._tick() + self.clock.monotonic()
                self._clear_away()
                await self._make_relays()

    async def _tick(self) -> float:
        """Look at the peers that can be reached both ways; returns the pause until the next look."""
        began = self.clock.monotonic()
        for key in self._peers.keys() - set(self.in_use()):
            self._forget(key)
        self._report_problems()
        chosen = {key: peer for key, peer in self._peers.items() if peer.course is not None}
        state = await self.read() if chosen and self.read is not None else None
        if state is None:
            return TICK
        cost = self.clock.monotonic() - began
        for key, peer in chosen.items():
            if (seen := state.peers.get(key)) is not None and self._peers.get(key) is peer:
                await self._look(key, peer, seen)
        return max(TICK, READ_SHARE * cost)

    def _report_problems(self) -> None:
        """Tell health about the relays in use that get nothing through."""
        if self.facts is None:
            return
        relays = {key: peer.relay for key, peer in self._peers.items() if peer.way is Way.RELAY}
        found = {key: relay.problem for key, relay in relays.items() if relay is not None}
        self.facts.relay_problems = {str(key): problem for key, problem in found.items() if problem}

    async def _look(self, key: PublicKey, peer: _Peer, seen: PeerState) -> None:
        assert peer.course is not None
        course, now = peer.course, self.clock.monotonic()
        session = self.clock.now() - seen.last_handshake < SESSION_LIFE
        direct = self.names.by_udp(key, peer.reach)
        if course.way is Way.UDP and not session and not self._can_send(peer, direct, now):
            turned = course.nowhere(now)
        else:
            at_home = direct is not None and seen.endpoint == direct
            relayed = peer.relay is not None and seen.endpoint == peer.relay.address
            turned = course.look(
                now, seen.tx_bytes, seen.rx_bytes, session=session, direct=at_home, relayed=relayed
            )
            if course.proven and at_home:
                peer.heard_at = direct
        if turned:
            self._turned(key, course)
        elif peer.relay is None or direct is None:
            return
        elif course.probe(now, _chance()):
            peer.relay.probe(direct, lambda: self._answered(key, peer))
        elif course.way is Way.UDP and seen.endpoint == peer.relay.address and self._is_proven(key, peer):
            if self.point is not None:
                await self.point(key, direct)  # a straggler has turned WireGuard back
        elif course.by_udp_for(now) > LINGER:
            self._end_relay(peer)

    def _can_send(self, peer: _Peer, direct: SocketAddress | None, now: float) -> bool:
        """Whether UDP goes out at all; asking sends a datagram, so a yes holds for a while."""
        if direct is None:
            return False
        if now >= peer.ask_at:
            if not self.can_send(direct):
                return False
            peer.ask_at = now + ASK
        return True

    def _turned(self, key: PublicKey, course: Course) -> None:
        if course.hopeless:
            _log.debug("transport.changed", peer=str(key), way=course.way.value)
        else:
            _log.info("transport.changed", peer=str(key), way=course.way.value)
            self.rerouted(key, course.way)
        if course.way is Way.RELAY and self._peers[key].relay is None:
            self._work.set()  # told when the relay is there
        else:
            self.changed([key])

    def _answered(self, key: PublicKey, peer: _Peer) -> None:
        """A probe was answered by UDP."""
        if self._peers.get(key) is peer and self._group is not None:
            self._group.create_task(self._return(key, peer), name=f"return {key}")

    async def _return(self, key: PublicKey, peer: _Peer) -> None:
        """Go back to UDP without losing a packet."""
        relay, course = peer.relay, peer.course
        direct = self.names.by_udp(key, peer.reach)
        if relay is None or course is None or direct is None or not course.by_udp(self.clock.monotonic()):
            return
        peer.heard_at = direct
        relay.hold(on=True)
        try:
            self._turned(key, course)
            await asyncio.sleep(_hold_for(relay))
        finally:
            relay.hold(on=False)
        await asyncio.sleep(SETTLE)
        if self.point is not None:
            await self.point(key, direct)

    # -- relays ---------------------------------------------------------------------------------------

    async def _make_relays(self) -> None:
        """Make the relays that are wanted. Absorbs failures: the next tick tries again."""
        assert self._group is not None
        made = []
        for key, peer in list(self._peers.items()):
            if peer.way is Way.UDP or peer.relay is not None:
                continue
            try:
                peer.relay = await self.make_relay(peer.reach)
            except (RelayError, OSError) as error:
                if peer.problem != str(error):
                    peer.problem = str(error)
                    _log.error("transport.no_relay", peer=str(key), problem=peer.problem)
                continue
            peer.running = self._group.create_task(peer.relay.run(), name=f"relay {key}")
            made.append(key)
        if made:
            self.changed(made)

    def _forget(self, key: PublicKey) -> None:
        peer = self._peers.pop(key, None)
        if peer is not None and peer.relay is not None:
            self._gone.append(peer)
            self._work.set()

    def _clear_away(self) -> None:
        while self._gone:
            self._end_relay(self._gone.pop())

    def _end_relay(self, peer: _Peer) -> None:
        if peer.relay is not None:
            self._past.update(_counted(peer.relay.snapshot()))
        if peer.running is not None:
            peer.running.cancel()
        peer.relay = peer.running = None


def _counted(seen: Mapping[str, Any]) -> Counter[str]:
    """A relay's counters, each drop under its reason."""
    drops = {f"dropped {reason}": count for reason, count in seen.get("drops", {}).items()}
    return Counter({name: seen.get(name, 0) for name in COUNTED} | drops)


def _hold_for(relay: PeerRelay) -> float:
    """Twice the way to the peer and back, as far as it is known, within bounds."""
    rtt_ms = relay.snapshot()["rtt_ms"] or 0.0
    return float(min(max(2 * rtt_ms / 1000, HOLD[0]), HOLD[1]))
