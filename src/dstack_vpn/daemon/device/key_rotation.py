"""Carries a change of our own key out: the device first, then the disk.

`OwnKeys` takes the key in the moment in which the registry names it. The device's peers stay; their sessions
begin again. A reorg that takes the change back takes the key back, too, for as long as the old one is kept.
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
"""Seconds between attempts, and between looks at whether the old key can go."""
INITIATE_AFTER: Final = 0.5
"""Seconds until handshakes are initiated: by then the peers should have heard of the key, too. One that has
not would answer only WireGuard's next initiation, 5 s later."""


@dataclass(slots=True)
class KeyRotation:
    """The task that carries key changes out."""

    keys: OwnKeys
    ring: KeyRing
    tunnel: Tunnel
    initiate: Callable[[Places], Awaitable[None]]
    """Has WireGuard send peers a handshake initiation; raises nothing."""

    async def run(self) -> None:
        """Carry changes out until cancelled. Absorbs device and store errors: both are tried again."""
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
        """Begin a session with every peer whose place is known: it may not know ours."""
        state, wanted = await self.tunnel.read(), self.tunnel.members.membership.peers
        places = {} if state is None else {key: peer.endpoint for key, peer in state.peers.items()}
        known = (key for key, place in places.items() if place is not None and key in wanted)
        await self.initiate(dict.fromkeys(known))

    def _settle(self) -> None:
        """Forget the old key once the block that replaced it can't be undone."""
        own, settled = self.tunnel.members.own_node, self.tunnel.members.follower.settled
        if own is not None and settled is not None and own.key_since.block <= settled.number:
            self.ring.settle()
