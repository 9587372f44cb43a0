"""Choice between UDP and relays for each peer as the network changes (`core.paths.selector`).

The return to UDP loses no packet, and no packet may arrive late. WireGuard follows a peer to the
source of its last packet, so a late packet from the relay would turn it back. Such packets are held
until the peer must have seen that we use UDP again. Then WireGuard receives the UDP address once
more.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from dstack_vpn.core.limits.time_share import TimeShare
from dstack_vpn.core.model import PeerState, SocketAddress
from dstack_vpn.core.observe.events import TransportChanged
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.paths.selector import Path, PathSelector
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.core.wireguard.wire import SESSION_LIFE
from dstack_vpn.daemon.device.tunnel import Tunnel
from dstack_vpn.daemon.peers.executor import PlanExecutor
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.daemon.peers.paths import Paths, PeerPath
from dstack_vpn.errors import RelayError
from dstack_vpn.ports import Clock, PeerRelay, Publish

_log = structlog.get_logger(component="relay")
_chance: Final = random.SystemRandom().random

TICK: Final = 1.0
"""The least seconds between checks of the peers that have both UDP and relays."""
READ_SHARE: Final = 50
"""At most one part in this many of the time is spent reading the device."""
LINGER: Final = 60.0
"""Seconds on UDP after which a relay ends."""
HOLD: Final = (0.1, 0.5)
"""The least and the most seconds for which late packets from the relay are held."""
SETTLE: Final = 0.02
"""Seconds for held packets to reach WireGuard."""


@dataclass(slots=True)
class PathKeeper:
    """The task that keeps every peer reachable."""

    paths: Paths
    tunnel: Tunnel
    members: Members
    executor: PlanExecutor
    clock: Clock
    make_relay: Callable[[PeerEndpoint], Awaitable[PeerRelay]]
    """Raises `RelayError`."""
    can_send: Callable[[SocketAddress], bool]
    """Returns whether the system can send UDP to an address."""
    publish: Publish
    _group: asyncio.TaskGroup | None = field(default=None, init=False)

    async def run(self) -> None:
        """Choose paths until cancelled."""
        work = self.paths.work
        async with asyncio.TaskGroup() as self._group:
            due = self.clock.monotonic() + TICK
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(work.wait(), max(due - self.clock.monotonic(), 0))
                work.clear()
                if self.clock.monotonic() >= due:
                    due = await self._tick() + self.clock.monotonic()
                self.paths.end_forgotten()
                await self._make_relays()

    async def _tick(self) -> float:
        """Check the peers with both UDP and relays; return the seconds until the next check."""
        began = self.clock.monotonic()
        self.paths.keep(self.members.membership.peers.keys())
        chosen = {key: peer for key, peer in self.paths.peers.items() if peer.selector is not None}
        state = await self.tunnel.read() if chosen else None
        if state is None:
            return TICK
        cost = self.clock.monotonic() - began
        for key, peer in chosen.items():
            if (seen := state.peers.get(key)) is not None and self.paths.peers.get(key) is peer:
                await self._check(key, peer, seen)
        return TimeShare(READ_SHARE, TICK).pause(cost)

    async def _check(self, key: PublicKey, peer: PeerPath, seen: PeerState) -> None:
        assert peer.selector is not None
        selector, now = peer.selector, self.clock.monotonic()
        session = self.clock.now() - seen.last_handshake < SESSION_LIFE
        direct = self.paths.names.by_udp(key, peer.peer_endpoint)
        if selector.way is Path.UDP and not session and not self._can_send(peer, direct, now):
            turned = selector.nowhere(now)
        else:
            at_home = direct is not None and seen.endpoint == direct
            relayed = peer.relay is not None and seen.endpoint == peer.relay.address
            turned = selector.look(
                now, seen.tx_bytes, seen.rx_bytes, session=session, direct=at_home, relayed=relayed
            )
            if selector.proven and at_home:
                peer.received(direct)
        if turned:
            self._turned(key, selector)
        elif peer.relay is None or direct is None:
            return
        elif selector.probe(now, _chance()):
            peer.relay.probe(direct, lambda: self._answered(key, peer))
        elif (
            selector.way is Path.UDP
            and seen.endpoint == peer.relay.address
            and self.paths.is_proven(key, peer)
        ):
            await self.executor.point(key, direct)  # a late packet has turned WireGuard back
        elif selector.by_udp_for(now) > LINGER:
            self.paths.end_relay(peer)

    def _can_send(self, peer: PeerPath, direct: SocketAddress | None, now: float) -> bool:
        """Return whether UDP can be sent; a check sends a datagram, so success counts for `ASK`."""
        if direct is None:
            return False
        if peer.asks(now):
            if not self.can_send(direct):
                return False
            peer.goes_out(now)
        return True

    def _turned(self, key: PublicKey, selector: PathSelector) -> None:
        if not selector.exhausted:
            self.publish(TransportChanged(key, *self.members.named(key), selector.way.value))
        if selector.way is Path.RELAY and self.paths.peers[key].relay is None:
            self.paths.work.set()  # the members follow when the relay is there
        else:
            self.members.path_changed([key])

    def _answered(self, key: PublicKey, peer: PeerPath) -> None:
        """Return to UDP: the peer answered a probe there."""
        if self.paths.peers.get(key) is peer and self._group is not None:
            self._group.create_task(self._return(key, peer), name=f"return {key}")

    async def _return(self, key: PublicKey, peer: PeerPath) -> None:
        """Return to UDP without losing a packet."""
        relay, selector = peer.relay, peer.selector
        direct = self.paths.names.by_udp(key, peer.peer_endpoint)
        if relay is None or selector is None or direct is None or not selector.by_udp(self.clock.monotonic()):
            return
        peer.received(direct)
        relay.hold(on=True)
        try:
            self._turned(key, selector)
            await asyncio.sleep(_hold_for(relay))
        finally:
            relay.hold(on=False)
        await asyncio.sleep(SETTLE)
        await self.executor.point(key, direct)

    async def _make_relays(self) -> None:
        """Make the missing relays. Absorbs failures: the next tick tries again."""
        assert self._group is not None
        made = []
        for key, peer in list(self.paths.peers.items()):
            if peer.way is Path.UDP or peer.relay is not None:
                continue
            try:
                relay = await self.make_relay(peer.peer_endpoint)
            except (RelayError, OSError) as error:
                if peer.fails(str(error)):
                    _log.error("transport.no_relay", peer=str(key), problem=str(error))
                continue
            peer.begin(relay, self._group.create_task(relay.run(), name=f"relay {key}"))
            if self.paths.peers.get(key) is peer:
                made.append(key)
            else:
                self.paths.end_relay(peer)  # forgotten while the relay was made
        if made:
            self.members.path_changed(made)


def _hold_for(relay: PeerRelay) -> float:
    """Return twice the relay's round-trip time, if known, within the bounds of `HOLD`; seconds."""
    rtt_ms = relay.snapshot()["rtt_ms"] or 0.0
    return float(min(max(2 * rtt_ms / 1000, HOLD[0]), HOLD[1]))
