"""Key rotation: a change of our own key is carried out on the device first, then on the disk.

`OwnKeys` adopts the key as soon as the registry names it. The device's peers stay; their sessions
begin again. A reorg that undoes the change restores the old key, for as long as it is kept.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from dstack_vpn.daemon.device.own_keys import OwnKeys
from dstack_vpn.daemon.device.tunnel import Tunnel
from dstack_vpn.daemon.peers.executor import Places
from dstack_vpn.errors import DeviceError, StoreError
from dstack_vpn.ports import KeyRing

_log = structlog.get_logger(component="node")

RETRY: Final = 1.0
"""Seconds between attempts, and between checks that the old key can be deleted."""
INITIATE_AFTER: Final = 0.5
"""Seconds until handshakes are initiated: by then the peers should have the key, too. A peer
without it would answer only WireGuard's next initiation, 5 s later."""


@dataclass(slots=True)
class KeyRotation:
    """The task that carries out key rotations."""

    keys: OwnKeys
    ring: KeyRing
    tunnel: Tunnel
    initiate: Callable[[Places], Awaitable[None]]
    """Makes WireGuard send peers a handshake initiation; raises nothing."""

    async def run(self) -> None:
        """Carry out rotations until cancelled. Absorbs device and store errors, and retries."""
        while True:
            try:
                await asyncio.wait_for(self.keys.taken.wait(), RETRY)
            except TimeoutError:
                self._settle()
                continue
            self.keys.taken.clear()
            try:
                await self._carry_out()
            except (DeviceError, StoreError) as error:
                _log.error("key.not_applied", problem=str(error))
                self.keys.taken.set()
                await asyncio.sleep(RETRY)

    async def _carry_out(self) -> None:
        tunnel = self.tunnel
        key, public = self.keys.private, tunnel.members.own_key
        await tunnel.up.wait()
        await tunnel.give(key)
        self.ring.use(public)
        await asyncio.sleep(INITIATE_AFTER)
        await self._initiate()

    async def _initiate(self) -> None:
        """Initiate a handshake with every peer whose endpoint is known: it may not know ours."""
        state, wanted = await self.tunnel.read(), self.tunnel.members.membership.peers
        places = {} if state is None else {key: peer.endpoint for key, peer in state.peers.items()}
        known = (key for key, place in places.items() if place is not None and key in wanted)
        await self.initiate(dict.fromkeys(known))

    def _settle(self) -> None:
        """Delete the old key once the block that replaced it is final."""
        own, settled = self.tunnel.members.own_node, self.tunnel.members.follower.settled
        if own is not None and settled is not None and own.key_since.block <= settled.number:
            self.ring.settle()
