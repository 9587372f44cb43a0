"""Calls the peers of a device that has just been set up, instead of waiting until they notice.

They still hold sessions with the WireGuard that we had before, and go on using them: one finds out after 15 s
without an answer (KEEPALIVE_TIMEOUT and REKEY_TIMEOUT). A handshake of ours tells it at once. Where a peer
was heard last is kept in the state directory, so that those are called, too, that have no endpoint of their
own: behind NAT, or a relay. A peer whom the device has a session with is left alone; one that lost it,
because somebody took it away and it had to be set again, is called like those of a new device.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from dstack_vpn.bridge.members import Members
from dstack_vpn.bridge.tunnel import Tunnel
from dstack_vpn.core.keys import PublicKey
from dstack_vpn.core.model import DeviceState, PeerChange, SetPeer, SocketAddress
from dstack_vpn.errors import StoreError
from dstack_vpn.ports import Device, EndpointMemory

_log = structlog.get_logger(component="device")

_CALL: Final = 25
"""Seconds. Turned on, a keepalive is sent at once, and with it a handshake; then it is what it was."""


@dataclass(slots=True)
class Greeter:
    """Calls peers, and remembers where they were heard."""

    tunnel: Tunnel
    members: Members
    memory: EndpointMemory
    change: Callable[[Sequence[PeerChange]], Awaitable[None]]
    """Changes peers on the device; raises nothing."""
    _known: dict[PublicKey, SocketAddress] = field(default_factory=dict, init=False)
    _called: Device | None = field(default=None, init=False)
    """The device whose peers have been called."""
    _state: DeviceState | None = field(default=None, init=False)
    _lost: set[PublicKey] = field(default_factory=set, init=False)
    """Peers that had a session, and have none any more."""
    _news: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def saw(self, state: DeviceState) -> None:
        """The device, as it was read just now."""
        before = {} if self._state is None else self._state.peers
        for key, peer in state.peers.items():
            if not peer.last_handshake and key in before and before[key].last_handshake:
                self._lost.add(key)
        self._state = state
        self._news.set()

    def call_again(self) -> None:
        """The device's peers have no sessions any more: have them called."""
        self._called = self._state = None

    async def run(self) -> None:
        """Call and remember until cancelled. Absorbs `StoreError`: what it can't keep is a convenience."""
        try:
            self._known = dict(await self.memory.load())
        except StoreError as error:
            _log.info("endpoints.unknown", reason=str(error))
        while True:
            await self._news.wait()
            self._news.clear()
            state = self._state
            if state is None or not state.peers or not self.tunnel.up.is_set():
                continue
            if self._called is not self.tunnel.device:
                self._called = self.tunnel.device
                await self._call(state, state.peers)
            elif self._lost:
                await self._call(state, self._lost & state.peers.keys())
            self._lost.clear()
            await self._remember(state)

    async def last_look(self) -> None:
        """At the end, while there is still a device: remember where peers are now. Absorbs device errors."""
        state = await self.tunnel.read()
        if state is not None:
            await self._remember(state)

    async def _call(self, state: DeviceState, keys: Iterable[PublicKey]) -> None:
        places = {
            key: state.peers[key].endpoint or self._known.get(key)
            for key in keys
            if not state.peers[key].last_handshake
        }
        wanted = self.members.membership.peers
        called = {key: place for key, place in places.items() if place is not None and key in wanted}
        if not called:
            return
        await self.change([SetPeer(key, place, _CALL) for key, place in called.items()])
        await self.change([SetPeer(key, keepalive=wanted[key].keepalive) for key in called if key in wanted])
        _log.info("peers.called", peers=len(called))

    async def _remember(self, state: DeviceState) -> None:
        heard = {
            key: peer.endpoint
            for key, peer in state.peers.items()
            if peer.endpoint is not None and peer.last_handshake and not peer.endpoint.is_loopback
        }
        known = {key: place for key, place in (self._known | heard).items() if key in state.peers}
        if known == self._known:
            return
        self._known = known
        try:
            await self.memory.save(known)
        except StoreError as error:
            _log.info("endpoints.not_kept", reason=str(error))
