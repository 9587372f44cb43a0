"""Carries plans out on the device, which changes nothing atomically, and knows what came of them.

Removals go first and alone: whatever fails afterwards, what was revoked is out. Grants that fail are undone
and tried one by one, so that one bad peer keeps no other out. Only this module changes peers on the device.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from dstack_vpn.core.access.plan import Plan, Step
from dstack_vpn.core.model import DeviceState, PeerChange, RemovePeer, SetPeer, SocketAddress, TokenId
from dstack_vpn.core.observe.events import PeerRefused, PlanFailed
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.device.tunnel import Tunnel
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.errors import DeviceError, DeviceGoneError
from dstack_vpn.ports import Publish

_KEEPALIVE: Final = 25
"""Seconds, for a moment."""
Places: TypeAlias = Mapping[PublicKey, SocketAddress | None]
"""Where to send for each peer; None: to where WireGuard has it."""


@dataclass(slots=True)
class PlanExecutor:
    """Changes the device's peers. Whoever plans and carries out holds `lock` meanwhile."""

    tunnel: Tunnel
    members: Members
    publish: Publish
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    present: dict[PublicKey, TokenId | None] = field(default_factory=dict)
    """The peers that the device has, as far as we know, and the token of each."""
    sent: dict[PublicKey, SocketAddress] = field(default_factory=dict)
    """The endpoint that each was given last."""
    applied: int = 0
    """Changes that the device has acknowledged."""
    plans: int = 0
    """Plans that the device took whole."""
    failed: int = 0
    """Plans that it did not."""
    rolled_back: int = 0
    """Of these, the plans whose grants were taken back to try them one by one."""

    def found(self, state: DeviceState) -> None:
        """Take the device's peers from what was just read."""
        self.present = {key: self.token_of(key) for key in state.peers}

    def token_of(self, key: PublicKey) -> TokenId | None:
        """Return the token that a peer stands for, or stood for."""
        return self.members.membership.tokens.get(key, self.present.get(key))

    async def carry_out(self, steps: Plan) -> None:
        """Carry a plan out; raises `DeviceError`. The caller holds the lock."""
        if not steps:
            return
        rolled_back = self.rolled_back
        try:
            await self._in_order(steps)
        except DeviceError as error:
            self.failed += 1
            self.publish(PlanFailed(len(steps.steps), str(error), self.rolled_back > rolled_back))
            raise
        self.plans += 1

    async def point(self, key: PublicKey, endpoint: SocketAddress) -> None:
        """Send a peer's endpoint again: the device has followed the peer elsewhere. Absorbs device errors."""
        async with self.lock:
            peer = self.members.membership.peers.get(key)
            if peer is not None and peer.endpoint == endpoint and self.tunnel.up.is_set():
                with suppress(DeviceError):
                    await self.tunnel.device.apply([SetPeer(key, endpoint)])

    async def initiate(self, places: Places, *, anew: bool = False) -> None:
        """Have WireGuard send these peers a handshake initiation, to these places. Absorbs device errors.

        With ``anew`` they are removed and set before: WireGuard sends a peer one initiation in 5 s, and a new
        peer has had none. Keys that are no members any more are left out.
        """
        async with self.lock:
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

    async def remove_all(self) -> None:
        """Remove every peer, and its session with it. Absorbs device errors."""
        async with self.lock:
            with suppress(DeviceError):
                await self.tunnel.device.apply([RemovePeer(key) for key in self.present])
                self.present, self.sent = {}, {}

    async def _in_order(self, steps: Plan) -> None:
        removals, others = steps.removals, steps.others
        if removals:
            await self.tunnel.device.apply([step.change for step in removals])
            self._note(removals)
        if not others:
            return
        try:
            await self.tunnel.device.apply([change for step in others for change in step.changes])
        except DeviceGoneError:
            raise
        except DeviceError:
            await self._one_by_one(others)
            raise
        self._note(others)

    async def _one_by_one(self, steps: tuple[Step, ...]) -> None:
        """Undo a batch that was refused, and try its steps alone."""
        self.rolled_back += 1
        await self.tunnel.device.apply(Plan(steps).undo)
        for step in steps:
            try:
                await self.tunnel.device.apply(step.changes)
            except DeviceGoneError:
                raise
            except DeviceError as error:
                key = step.change.public_key
                self.publish(PeerRefused(key, self.token_of(key), str(error)))
                await self.tunnel.device.apply(Plan((step,)).undo)
            else:
                self._note((step,))

    def _note(self, steps: tuple[Step, ...]) -> None:
        """Remember what the device has acknowledged."""
        for step in steps:
            match step.change:
                case RemovePeer(key):
                    self.present.pop(key, None)
                    self.sent.pop(key, None)
                case SetPeer(key, endpoint):
                    self.present[key] = self.members.membership.tokens.get(key)
                    if endpoint is not None:
                        self.sent[key] = endpoint
        self.applied += len(steps)
