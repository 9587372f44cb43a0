"""The interface and its device: set up once, kept up, set up anew when they vanish.

The interface is never restarted to change a peer; only its own key, port and addresses are set here, each
only where it differs.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from dstack_vpn.bridge.members import Members
from dstack_vpn.core.health import Facts
from dstack_vpn.core.keys import PrivateKey
from dstack_vpn.core.model import Cidr, DeviceState
from dstack_vpn.core.x25519 import derive
from dstack_vpn.errors import DeviceError
from dstack_vpn.ports import Clock, Device, Link, LinkSettings

_log = structlog.get_logger(component="device")

RETRY: Final = 1.0
"""Seconds between attempts to set the interface up."""
CHECK: Final = 2.0
"""Seconds between looks at whether the interface is still there and up."""
COMPARE: Final = 10.0
"""Seconds between looks at its addresses and routes..."""
COMPARE_SHARE: Final = 200
"""...or so many times as long as one takes: a host can have a million routes."""


@dataclass(slots=True)
class Tunnel:
    """The WireGuard interface of this node."""

    link: Link
    members: Members
    private_key: PrivateKey
    listen_port: int
    name: str
    mtu: int
    facts: Facts
    clock: Clock
    up: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while there is a device that is configured."""
    refill: Callable[[], Awaitable[object]] | None = None
    """Gives a device that was just set up its peers."""
    renew: Callable[[], Awaitable[object]] | None = None
    """Has all peers begin new sessions."""
    key_on_disk: bool = True
    """Whether the private key may be written into the wg-quick file."""
    restarts: int = -1
    _device: Device | None = None
    _given: PrivateKey | None = None
    """The key that the device was given last; `private_key` may be about to replace it."""
    _settings: LinkSettings | None = None
    _logged: frozenset[Cidr] | None = None
    """The addresses that the log has last."""
    _lost: asyncio.Event = field(default_factory=asyncio.Event)
    _look: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def device(self) -> Device:
        """The device; only while `up` is set."""
        assert self._device is not None
        return self._device

    @property
    def own_addresses(self) -> frozenset[Cidr]:
        """The addresses of our token that the interface can have: no IPv6 if the host has it disabled."""
        own, plan = self.members.own_node, self.members.addresses
        found = frozenset[Cidr]() if own is None else plan.allowed_ips(own.token_id)
        return frozenset(cidr for cidr in found if ":" not in cidr or not self.facts.without_ipv6)

    def lost(self) -> None:
        """Somebody found the device gone: set it up anew."""
        self.up.clear()
        self._lost.set()

    def look(self) -> None:
        """Our own address may have changed: have a look now."""
        self._look.set()

    async def start(self) -> None:
        """Set everything up; raises `DeviceError`."""
        self._device = await self.link.start()
        self._settings = None
        await self.address()
        await self.give(self.private_key)
        self._lost.clear()
        self.restarts += 1
        self.facts.interface_up, self.facts.device_problem = True, None
        self.facts.device_since = self.clock.now()
        _log.info("device.up", interface=self.name, port=self.listen_port, restarts=self.restarts)
        self.up.set()
        if self.refill is not None:
            await self.refill()

    async def give(self, key: PrivateKey) -> None:
        """Give the device its key and port; raises `DeviceError`."""
        await self.device.configure(key, self.listen_port)
        self._given = key

    async def hold(self, state: DeviceState) -> bool:
        """Undo what somebody else did to the device's own key or port; raises `DeviceError`.

        Returns whether there was anything: then the peers were set anew, too.
        """
        if self._given is None or (
            state.public_key == derive(self._given) and self.listen_port in {0, state.listen_port}
        ):
            return False
        _log.warning("device.edited", what="key or port")
        await self.give(self._given)
        if self.renew is not None:
            await self.renew()  # the sessions went with the key, and the peers don't know
        return True

    async def read(self) -> DeviceState | None:
        """What the device has; None where it can't be read now."""
        if self._device is None or not self.up.is_set():
            return None
        try:
            return await self._device.read()
        except DeviceError:
            return None  # the reconciler finds that out, too, and knows what to do

    async def address(self) -> None:
        """Give the interface our token's addresses (none, while we have no token) and the routes.

        Until the registry is known, an interface that was adopted keeps the addresses that it has.
        """
        own, plan = self.members.own_node, self.members.addresses
        addresses: frozenset[Cidr] | None = None
        if own is not None:
            addresses = plan.allowed_ips(own.token_id)
        elif self.facts.synced is not None:
            addresses = frozenset()
        settings = LinkSettings(self.name, self.mtu, addresses, frozenset({str(plan.ipv4), str(plan.ipv6)}))
        if settings == self._settings:
            return
        before = None if self._settings is None else self._settings.addresses
        await self._configure(settings)
        self._settings = settings
        if addresses != self._logged:
            self._logged = addresses
            _log.info("device.addresses", addresses=sorted(addresses or ()))
        if before is not None and addresses and self.up.is_set() and self.renew is not None:
            # We were off the network, or somebody else on it: the others have forgotten our sessions, and
            # WireGuard would find that out of each only after 15 s without an answer.
            await self.renew()

    async def run(self) -> None:
        """Keep the device: start it, wait until it has gone, start it again. Absorbs device errors."""
        while True:
            if await self._try_start():
                await self._until_lost()
            else:
                await asyncio.sleep(RETRY)

    async def watch(self) -> None:
        """Keep addresses and the up state as they should be. Absorbs device errors; health shows them."""
        failed = False
        compare_at = self.clock.monotonic() + COMPARE
        while True:
            await self.up.wait()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), CHECK)
            self._look.clear()
            try:
                await self.address()
                self.facts.interface_up = await self.link.is_up()
                if not self.facts.interface_up:
                    await self._raise()
                if self.clock.monotonic() >= compare_at:
                    compare_at = await self._compare()
                if failed and self.refill is not None:
                    await self.refill()  # a full look at the device also tells health that it is well
                failed = False
            except DeviceError as error:
                failed = True
                self._fail(error)

    async def _raise(self) -> None:
        """Bring an interface up that somebody took down; its sessions went with that."""
        _log.warning("device.down", interface=self.name)
        if self._settings is None:
            await self.address()
        else:
            await self._configure(self._settings)
        if self.renew is not None:
            await self.renew()

    async def _compare(self) -> float:
        """Undo what somebody else did to addresses, MTU or routes; returns when to look again."""
        began = self.clock.monotonic()
        if self._settings is not None and await self._configure(self._settings):
            _log.warning("device.edited", what="addresses, MTU or routes")
        now = self.clock.monotonic()
        return now + max(COMPARE, COMPARE_SHARE * (now - began))

    async def _configure(self, settings: LinkSettings) -> bool:
        """Apply the settings, and have health know what stands against them; raises `DeviceError`."""
        changed = await self.link.configure(settings)
        problem = self.link.obstacle()
        if problem != self.facts.route_problem:
            self.facts.route_problem = problem
            if problem is not None:
                _log.error("device.route_taken", problem=problem)
        self.facts.without_ipv6 = self.link.without_ipv6
        return changed

    async def stop(self, *, keep: bool) -> None:
        """Take the interface away, or leave it as it is."""
        self.up.clear()
        await self.link.stop(keep=keep)

    async def _until_lost(self) -> None:
        gone = self.link.gone()
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(gone), group.create_task(self._lost.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        self.lost()
        self._fail(DeviceError("the WireGuard device has vanished; it is being set up anew"))

    async def _try_start(self) -> bool:
        try:
            await self.start()
        except DeviceError as error:
            self._fail(error)
            return False
        return True

    def _fail(self, error: DeviceError) -> None:
        self.facts.interface_up = self.up.is_set() and self.facts.interface_up
        if self.facts.device_problem != str(error):
            self.facts.device_problem, self.facts.device_since = str(error), self.clock.now()
            _log.error("device.trouble", problem=str(error))
