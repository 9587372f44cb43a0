"""Changes our own key when the registry names another one that we hold.

The key that waits becomes ours in the same moment in which the registry names it, so our own token is never
taken for somebody else's. The device follows: its peers stay, their sessions begin anew. A reorg that takes
the change back takes the key back, too, for as long as the old one is kept.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from dstack_vpn.bridge.reconciler import Places
from dstack_vpn.bridge.tunnel import Tunnel
from dstack_vpn.core.access import AccessControl, Reason
from dstack_vpn.core.keys import PublicKey
from dstack_vpn.errors import DeviceError, StoreError
from dstack_vpn.ports import KeyRing

_log = structlog.get_logger(component="node")

RETRY: Final = 1.0
"""Seconds between attempts, and between looks at whether the old key can go."""
CALL: Final = 25
"""Seconds between keepalives, for a moment."""
CALL_AFTER: Final = 0.5
"""Seconds until peers are called: by then they should have heard of the key, too. One that has not would
answer only WireGuard's next attempt, 5 s later."""


@dataclass(slots=True)
class Rotation:
    """The keys that we could take, and the task that carries the taking out."""

    ring: KeyRing
    tunnel: Tunnel
    initiate: Callable[[Places], Awaitable[None]]
    """Has WireGuard send peers a handshake initiation; raises nothing."""
    _taken: asyncio.Event = field(default_factory=asyncio.Event)

    def adopt(self, access: AccessControl, now: float) -> PublicKey | None:
        """Take the key that the registry has for us, if it is one of ours; our present one is in no force."""
        for public, private in self.ring.others().items():
            if replace(access, own_key=public).decide(public, now).reason is Reason.OWN_KEY:
                _log.warning("key.changed", public_key=str(public))
                self.tunnel.private_key = private
                self._taken.set()
                return public
        return None

    async def run(self) -> None:
        """Give the device its key, then the disk. Absorbs device and store errors: both are tried again."""
        while True:
            try:
                await asyncio.wait_for(self._taken.wait(), RETRY)
            except TimeoutError:
                self._settle()
                continue
            self._taken.clear()
            try:
                await self._carry_out()
            except (DeviceError, StoreError) as error:
                _log.error("key.change_failed", problem=str(error))
                self._taken.set()
                await asyncio.sleep(RETRY)

    async def _carry_out(self) -> None:
        tunnel = self.tunnel
        key, public = tunnel.private_key, tunnel.members.own_key
        await tunnel.up.wait()
        await tunnel.give(key)
        self.ring.use(public)
        await asyncio.sleep(CALL_AFTER)
        await self._call()

    async def _call(self) -> None:
        """Begin a session with every peer whose place is known: it may not know ours."""
        state, wanted = await self.tunnel.read(), self.tunnel.members.membership.peers
        places = {} if state is None else {key: peer.endpoint for key, peer in state.peers.items()}
        called = (key for key, place in places.items() if place is not None and key in wanted)
        await self.initiate(dict.fromkeys(called))

    def _settle(self) -> None:
        """The old key goes once the block that replaced it can't be undone."""
        own, settled = self.tunnel.members.own_node, self.tunnel.members.follower.settled
        if own is not None and settled is not None and own.key_since.block <= settled.number:
            self.ring.settle()
