"""Initiation of handshakes without waiting for a timeout.

The peers of a new device still hold sessions with the WireGuard that we had before, and go on using
them: one finds out after 15 s without an answer (KEEPALIVE_TIMEOUT and REKEY_TIMEOUT). A handshake
of ours replaces the session at once. This includes a peer that lost its session on this device: it
was removed and set again, or revoked and granted again within the life of a session. The state
directory keeps the last endpoint of each peer, which also covers a peer without an endpoint of its
own (behind NAT, or a relay).

WireGuard sends one initiation in 5 s (REKEY_TIMEOUT). If that one is lost, the tunnel stands still
for as long. It is easily lost: the other node may learn of the grant a moment later, and two
initiations that cross cancel each other, since each side then answers as the responder and drops
the answer to its own. So a peer without a session soon after an initiation is set again, which
allows another initiation. The side with the smaller key does that first.

A new peer gets its first initiation from WireGuard, for a keepalive or a packet. Two nodes that get
each other as a peer at once often initiate at the same moment, and wait for 5 s then. So a new peer
to which something was sent, and that has no session soon afterwards, is initiated again too. A peer
that was idle is watched until its first packet. Only the first packets count: if a peer does not
answer, WireGuard goes on by itself.
"""

import asyncio
import math
import random
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from dstack_vpn.core.model import DeviceState, PeerState, SocketAddress
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.core.wireguard.wire import SESSION_LIFE
from dstack_vpn.daemon.device.tunnel import Tunnel
from dstack_vpn.daemon.observe.peer_stats import PeerStatsCache
from dstack_vpn.daemon.peers.executor import Places
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.errors import StoreError
from dstack_vpn.ports import Device, EndpointMemory
from dstack_vpn.slices import slices

_log = structlog.get_logger(component="device")
_chance: Final = random.SystemRandom().random

AGAIN: Final = 0.5
"""Seconds between two initiations; the side with the larger key waits twice as long."""
JITTER: Final = 0.25
"""Seconds at most that are added to it."""
LARGER_KEY: Final = 4
"""The factor of the first pause after WireGuard's own initiation, on the side with the larger key.
Both sides may notice it at times that differ by `TICK`."""
TICK: Final = 1.0
"""Seconds between two looks at new peers that were idle."""
SLICE: Final = 500
"""The number of idle peers that are looked at without yielding to the event loop."""
ATTEMPTS: Final = 4
"""The limit of initiations, with a longer pause before each; WireGuard then retries by itself."""
MOST_RETRIED: Final = 200
"""The limit of peers that are initiated again: setting many again blocks the device."""


class Initiate(Protocol):
    """Makes WireGuard send peers a handshake initiation, to these places; raises nothing."""

    async def __call__(self, places: Places, *, reset: bool = False) -> None:
        """Initiate; with ``reset`` the peers are first removed and set again."""


@dataclass(slots=True)
class _Initiation:
    place: SocketAddress
    due: float
    """The time of the next initiation (monotonic seconds)."""
    made: int = 1


@dataclass(slots=True)
class HandshakeInitiator:
    """Initiates handshakes, and stores the last endpoint of each peer."""

    tunnel: Tunnel
    members: Members
    memory: EndpointMemory
    initiate: Initiate
    peer_stats: PeerStatsCache
    _known: dict[PublicKey, SocketAddress] = field(default_factory=dict, init=False)
    _device: Device | None = field(default=None, init=False)
    """The device with whose peers handshakes were initiated."""
    _state: DeviceState | None = field(default=None, init=False)
    _lost: set[PublicKey] = field(default_factory=set, init=False)
    """Peers that lost their session."""
    _left: dict[PublicKey, float] = field(default_factory=dict, init=False)
    """Peers that were removed while they had a session, with the time (monotonic seconds)."""
    _initiations: dict[PublicKey, _Initiation] = field(default_factory=dict, init=False)
    """Peers with an initiation and without a session yet."""
    _idle: set[PublicKey] = field(default_factory=set, init=False)
    """New peers without a session, to which nothing was sent at the last look."""
    _looked: float | None = field(default=None, init=False)
    """The time of the reading of the last look."""
    _news: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def observe(self, state: DeviceState) -> None:
        """Compare a reading of the device with the one before, to find lost sessions."""
        before = {} if self._state is None else self._state.peers
        now = self.tunnel.clock.monotonic()
        for key in before.keys() - state.peers.keys():
            if before[key].last_handshake:
                self._left[key] = now
        self._left = {key: at for key, at in self._left.items() if now - at < SESSION_LIFE}
        for key in [key for key, peer in state.peers.items() if not peer.last_handshake]:
            if key in self._left or (key in before and before[key].last_handshake):
                self._lost.add(key)
            elif key not in before:
                self._idle.add(key)
        for key in self._left.keys() & state.peers.keys():
            del self._left[key]
        self._state = state
        self._news.set()

    def initiate_all(self) -> None:
        """Initiate handshakes with all peers: the device's sessions are gone."""
        self._device = self._state = None

    async def run(self) -> None:
        """Initiate handshakes and store endpoints until cancelled.

        Absorbs `StoreError`: stored endpoints are a convenience.
        """
        try:
            known = await self.memory.load()
            self._known = {key: place for key, place in known.items() if self._is_usable(place)}
        except StoreError as error:
            _log.info("endpoints.unknown", reason=str(error))
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), self._pause())
            is_new = self._news.is_set()
            self._news.clear()
            if not self.tunnel.up.is_set():
                continue
            await self._initiate_due()
            state = self._state
            if is_new and state is not None and state.peers:
                await self._take(state)
            if self._idle:
                await self._look()

    async def _take(self, state: DeviceState) -> None:
        """Initiate what a new reading calls for, and store its endpoints."""
        lost, self._lost = self._lost, set()
        if self._device is not self.tunnel.device:
            self._device = self.tunnel.device
            await self._initiate_missing(state, state.peers)
        elif lost:
            await self._initiate_missing(state, lost & state.peers.keys())
        await self._remember(state)

    async def store_endpoints(self) -> None:
        """Store the peers' endpoints at shutdown, before the device is removed.

        Absorbs device errors.
        """
        state = await self.tunnel.read()
        if state is not None:
            await self._remember(state)

    async def _initiate_missing(self, state: DeviceState, keys: Iterable[PublicKey]) -> None:
        places = {
            key: state.peers[key].endpoint or self._known.get(key)
            for key in keys
            if not state.peers[key].last_handshake
        }
        wanted = self.members.membership.peers
        initiated = {key: place for key, place in places.items() if place is not None and key in wanted}
        if not initiated:
            return
        # A session may have begun since the reading. Its endpoint is WireGuard's to choose.
        await self.initiate(
            {key: place if state.peers[key].endpoint is None else None for key, place in initiated.items()}
        )
        self._idle -= initiated.keys()
        if len(initiated) <= MOST_RETRIED:
            self._initiations |= {
                key: _Initiation(place, self._due(key, 1)) for key, place in initiated.items()
            }
        _log.info("handshakes.initiated", peers=len(initiated))

    # -- new peers ---------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Note the initiations that WireGuard has sent to new peers by itself."""
        peers = await self.peer_stats.look()
        if self.peer_stats.at == self._looked:
            return
        self._looked = self.peer_stats.at
        async for part in slices(list(self._idle), SLICE):
            for key in part:
                peer = peers.get(key)
                if peer is None or peer.last_handshake or peer.tx_bytes:
                    self._idle.discard(key)
                    self._note_sent(key, peer)

    def _note_sent(self, key: PublicKey, peer: PeerState | None) -> None:
        if peer is None or peer.last_handshake or peer.endpoint is None:
            return
        # Without a limit, thousands of peers that are down would be set again and again.
        if key not in self._initiations and len(self._initiations) < MOST_RETRIED:
            first = bytes(self.members.own_key) < bytes(key)
            pause = AGAIN * (1 if first else LARGER_KEY) + JITTER * _chance()
            due = self.tunnel.clock.monotonic() + pause
            self._initiations[key] = _Initiation(peer.endpoint, due)

    # -- initiations without a reply ---------------------------------------------------------------

    def _due(self, key: PublicKey, made: int) -> float:
        """Return when to initiate after ``made`` times: not at the same time as the other side."""
        first = bytes(self.members.own_key) < bytes(key)
        pause = AGAIN * made * (1 if first else 2)
        return self.tunnel.clock.monotonic() + pause + JITTER * _chance()

    def _pause(self) -> float | None:
        """Return the seconds until the next initiation or look, or None."""
        due = min((initiation.due for initiation in self._initiations.values()), default=math.inf)
        pause = max(due - self.tunnel.clock.monotonic(), 0.0)
        if self._idle:
            pause = min(pause, TICK)
        return None if pause == math.inf else pause

    async def _initiate_due(self) -> None:
        """Initiate again with the peers that are due; drop those with a session and those gone."""
        now = self.tunnel.clock.monotonic()
        if not any(initiation.due <= now for initiation in self._initiations.values()):
            return
        state = await self.tunnel.read()
        if state is None:
            self._initiations.clear()
            return
        self._forget_initiations(state, self.members.membership.peers.keys())
        due = {key: initiation for key, initiation in self._initiations.items() if initiation.due <= now}
        if due:
            # A peer that has sent from another address by now is there.
            places = {key: state.peers[key].endpoint or initiation.place for key, initiation in due.items()}
            await self.initiate(places, reset=True)
        for key, initiation in due.items():
            initiation.made += 1
            initiation.due = self._due(key, initiation.made)

    def _forget_initiations(self, state: DeviceState, wanted: Collection[PublicKey]) -> None:
        for key, initiation in list(self._initiations.items()):
            peer = state.peers.get(key)
            if peer is None or peer.last_handshake or key not in wanted or initiation.made >= ATTEMPTS:
                del self._initiations[key]

    def _is_usable(self, place: SocketAddress) -> bool:
        """Return whether the place is another machine, outside of the tunnel."""
        return self.members.policy.destinations.refusal(place.host) is None

    async def _remember(self, state: DeviceState) -> None:
        received = {
            key: peer.endpoint
            for key, peer in state.peers.items()
            if peer.endpoint is not None and peer.last_handshake and self._is_usable(peer.endpoint)
        }
        known = {key: place for key, place in (self._known | received).items() if key in state.peers}
        if known == self._known:
            return
        self._known = known
        try:
            await self.memory.save(known)
        except StoreError as error:
            _log.info("endpoints.not_kept", reason=str(error))
