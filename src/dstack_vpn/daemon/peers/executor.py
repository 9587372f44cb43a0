"""Execution of plans on the device, which has no atomic changes, and their outcome.

Removals go first and alone, so a later failure never keeps a revoked peer. The rules of the policy
follow, and the peers that they are for come last. Grants that fail are
undone and tried one by one, so that one bad peer does not keep others out. Only this module changes
peers on the device.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from dstack_vpn.core.access.plan import Plan, Step
from dstack_vpn.core.model import DeviceState, PeerChange, RemovePeer, SetPeer, SocketAddress, TokenId
from dstack_vpn.core.observe.events import PeerRefused, PlanFailed
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.device.tunnel import Tunnel
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.errors import DeviceError, DeviceGoneError, FirewallError
from dstack_vpn.ports import Publish

_KEEPALIVE: Final = 25
"""Seconds of the temporary keepalive that triggers an initiation."""
Places: TypeAlias = Mapping[PublicKey, SocketAddress | None]
"""The address to send to for each peer; None: keep WireGuard's own."""


@dataclass(slots=True)
class PlanExecutor:
    """Changes the device's peers. A caller holds `lock` while it plans and carries out."""

    tunnel: Tunnel
    members: Members
    settle: Callable[[], Awaitable[None]]
    """Applies the packet filter's rules for the peers as they are now; raises `FirewallError`."""
    publish: Publish
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    present: dict[PublicKey, TokenId | None] = field(default_factory=dict)
    """The peers that the device has, to our knowledge, and the token of each."""
    sent: dict[PublicKey, SocketAddress] = field(default_factory=dict)
    """The last endpoint that the device received for each peer."""
    applied: int = 0
    """The number of acknowledged changes."""
    plans: int = 0
    """The number of plans that the device applied completely."""
    failed: int = 0
    """The number of plans that failed."""
    rolled_back: int = 0
    """The number of failed plans whose grants were undone and tried one by one."""
    _readings: list[set[PublicKey]] = field(default_factory=list)
    """For each reading under way, the peers that were changed since it began."""

    @contextmanager
    def changed_since(self) -> Iterator[set[PublicKey]]:
        """Collect the peers that are changed from here to the end of the block.

        A reading that began before a change must not decide about that peer.
        """
        changed: set[PublicKey] = set()
        self._readings.append(changed)
        try:
            yield changed
        finally:
            self._readings = [each for each in self._readings if each is not changed]

    def found(self, state: DeviceState, changed: Collection[PublicKey]) -> None:
        """Record the device's peers from a reading, except those that have changed since."""
        tokens, before = self.members.membership.tokens, self.present
        found = {key: tokens.get(key, before.get(key)) for key in state.peers}
        for key in changed:
            found.pop(key, None)
            if key in before:
                found[key] = before[key]
        self.present = found

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
        """Set a peer's endpoint again after the device followed the peer elsewhere.

        Absorbs device errors.
        """
        async with self.lock:
            peer = self.members.membership.peers.get(key)
            if peer is not None and peer.endpoint == endpoint and self.tunnel.up.is_set():
                with suppress(DeviceError):
                    await self.tunnel.device.apply([SetPeer(key, endpoint)])

    async def initiate(self, places: Places, *, reset: bool = False) -> None:
        """Make WireGuard send these peers a handshake initiation, to these places.

        With ``reset`` they are removed and set first: WireGuard sends a peer one initiation in 5 s,
        and a new peer has had none. Keys that are not members any more are skipped. Absorbs device
        errors.
        """
        async with self.lock:
            wanted = self.members.membership.peers
            peers = {key: wanted[key] for key in places if key in wanted}
            if not peers or not self.tunnel.up.is_set():
                return
            fresh: list[PeerChange] = []
            for key in peers if reset else ():
                fresh += [RemovePeer(key), SetPeer(key, allowed_ips=peers[key].allowed_ips)]
            # Turning a keepalive on sends one at once, and with it an initiation.
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
                self._mark(self.present)
                self.present, self.sent = {}, {}

    async def _in_order(self, steps: Plan) -> None:
        removals, others = steps.removals, steps.others
        if removals:
            await self.tunnel.device.apply([step.change for step in removals])
            self._note(removals)
        if not others:
            return
        # An address keeps its token, and may have another owner now: its rules come first.
        try:
            await self.settle()
        except FirewallError as error:
            raise DeviceError(f"the policy can't be enforced: {error}") from error
        try:
            await self.tunnel.device.apply([change for step in others for change in step.changes])
        except DeviceGoneError:
            raise
        except DeviceError:
            await self._one_by_one(others)
            raise
        self._note(others)

    async def _one_by_one(self, steps: tuple[Step, ...]) -> None:
        """Undo a refused batch, and try its steps one by one."""
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
        """Record the steps that the device has acknowledged."""
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
        self._mark(change.public_key for step in steps for change in step.changes)

    def _mark(self, keys: Iterable[PublicKey]) -> None:
        """Add changed peers to the readings under way."""
        changed = set(keys)
        for each in self._readings:
            each.update(changed)
