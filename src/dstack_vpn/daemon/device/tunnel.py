"""The interface and its device: its key, port, addresses and routes.

The interface is never restarted to change a peer. Only differences are set. `TunnelKeeper` restores
all of it, and sets the interface up again when it is gone.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from dstack_vpn.core.limits.time_share import TimeShare
from dstack_vpn.core.model import Cidr, DeviceState
from dstack_vpn.core.observe.reports import DeviceReport
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.daemon.device.own_keys import OwnKeys
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.errors import DeviceError
from dstack_vpn.ports import Clock, Device, Link, LinkSettings

_log = structlog.get_logger(component="device")

RETRY: Final = 1.0
"""Seconds between attempts to set the interface up."""
CHECK: Final = 2.0
"""Seconds between checks that the interface exists and is up."""
COMPARE: Final = TimeShare(parts=200, least=10.0)
"""The rate of comparing its addresses and routes: a host can have a million routes."""
AFTER_EDIT: Final = TimeShare(parts=20, least=0.1)
"""The same after the kernel reported a change: several changes are compared once, and two programs
that undo each other's changes do not take all of the time."""


@dataclass(slots=True)
class Tunnel:
    """The WireGuard interface of this node."""

    link: Link
    members: Members
    keys: OwnKeys
    listen_port: int
    name: str
    mtu: int
    clock: Clock
    up: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set while there is a device that is configured."""
    gone: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set when the device was found gone."""
    restarts: int = field(default=-1, init=False)
    without_ipv6: bool = field(default=False, init=False)
    """Set if the host has IPv6 disabled, so that the interface has no IPv6 address."""
    _device: Device | None = field(default=None, init=False)
    _given: PrivateKey | None = field(default=None, init=False)
    """The last key that was set on the device; `keys` may already have another one."""
    _settings: LinkSettings | None = field(default=None, init=False)
    _logged: frozenset[Cidr] | None = field(default=None, init=False)
    """The addresses that were logged last."""
    _is_up: bool = field(default=False, init=False)
    """Set if the interface was up at the last check."""
    _problem: str | None = field(default="the interface has not been set up yet", init=False)
    _since: float | None = field(default=None, init=False)
    _route_problem: str | None = field(default=None, init=False)

    @property
    def device(self) -> Device:
        """The device; only while `up` is set."""
        assert self._device is not None
        return self._device

    @property
    def own_addresses(self) -> frozenset[Cidr]:
        """Our token's addresses that the interface can have: no IPv6 if the host disables it."""
        own, plan = self.members.own_node, self.members.addresses
        found = frozenset[Cidr]() if own is None else plan.allowed_ips(own.token_id)
        return frozenset(cidr for cidr in found if ":" not in cidr or not self.without_ipv6)

    def report(self, *, held: int) -> DeviceReport:
        """Report for health; ``held`` removals wait for a second reading."""
        return DeviceReport(
            up=self._is_up,
            problem=self._problem,
            since=self._since,
            route_problem=self._route_problem,
            without_ipv6=self.without_ipv6,
            held=held,
        )

    # -- state -------------------------------------------------------------------------------------

    def fail(self, problem: str) -> None:
        """Record that the device refuses a change or is gone; it is tried again."""
        self._is_up = self.up.is_set() and self._is_up
        if self._problem != problem:
            self._problem, self._since = problem, self.clock.now()
            _log.error("device.trouble", problem=problem)

    def works(self) -> None:
        """Record that the device is correct."""
        self._problem = None

    def lost(self) -> None:
        """Record that the device is gone, so that it is set up again."""
        self.up.clear()
        self.gone.set()

    async def is_up(self) -> bool:
        """Return whether the interface exists and is up; raises `DeviceError`."""
        self._is_up = await self.link.is_up()
        return self._is_up

    # -- settings ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Set up everything except the peers; raises `DeviceError`."""
        self._device = await self.link.start()
        self._settings = None
        if self.members.stale:
            state = await self._device.read()
            self.members.keep(state.peers)
        await self.address()
        await self.give(self.keys.private)
        self.gone.clear()
        self.restarts += 1
        self._is_up, self._problem, self._since = True, None, self.clock.now()
        _log.info("device.up", interface=self.name, port=self.listen_port, restarts=self.restarts)
        self.up.set()

    async def give(self, key: PrivateKey) -> None:
        """Set the device's key and port; raises `DeviceError`."""
        await self.device.configure(key, self.listen_port)
        self._given = key

    async def hold(self, state: DeviceState) -> bool:
        """Undo another program's change of the device's key or port; raises `DeviceError`.

        Returns whether there was a change: it ended the sessions of all peers.
        """
        if self._given is None or (
            state.public_key == derive(self._given) and self.listen_port in {0, state.listen_port}
        ):
            return False
        _log.warning("device.edited", what="key or port")
        await self.give(self._given)
        return True

    async def read(self) -> DeviceState | None:
        """Read the device; None if that is not possible now."""
        if self._device is None or not self.up.is_set():
            return None
        try:
            return await self._device.read()
        except DeviceError:
            return None  # the reconciler finds and handles the same error

    async def address(self) -> bool:
        """Set the interface's routes, and the addresses of our token if we have one.

        Until the registry is known, an adopted interface keeps its addresses. Returns whether the
        addresses have changed: the peers then have no sessions with us. Raises `DeviceError`.
        """
        own, plan = self.members.own_node, self.members.addresses
        addresses: frozenset[Cidr] | None = None
        if own is not None:
            addresses = plan.allowed_ips(own.token_id)
        elif self.members.synced is not None:
            addresses = frozenset()
        networks = self.members.routes.networks
        settings = LinkSettings(
            self.name, self.mtu, addresses, frozenset({str(plan.ipv4), str(plan.ipv6)}), networks
        )
        if settings == self._settings:
            return False
        before = None if self._settings is None else self._settings.addresses
        await self._configure(settings)
        self._settings = settings
        if addresses != self._logged:
            self._logged = addresses
            _log.info("device.addresses", addresses=sorted(addresses or ()))
        return before not in {None, addresses} and bool(addresses)

    async def configure_again(self) -> bool:
        """Undo another program's change of the interface; raises `DeviceError`.

        Returns whether addresses, MTU or routes were different.
        """
        if self._settings is None:
            await self.address()
            return False
        return await self._configure(self._settings)

    async def stop(self, *, keep: bool) -> None:
        """Remove the interface, or leave it as it is."""
        self.up.clear()
        await self.link.stop(keep=keep)

    async def _configure(self, settings: LinkSettings) -> bool:
        changed = await self.link.configure(settings)
        problem = self.link.obstacle()
        if problem != self._route_problem:
            self._route_problem = problem
            if problem is not None:
                _log.error("device.route_taken", problem=problem)
        self.without_ipv6 = self.link.without_ipv6
        return changed


@dataclass(slots=True)
class TunnelKeeper:
    """Keeps the interface up and restores its settings."""

    tunnel: Tunnel
    own_changed: asyncio.Event
    """Set when our own addresses may have changed."""
    fill: Callable[[], Awaitable[object]]
    """Sets the device's peers; raises nothing."""
    survey: Callable[[], Awaitable[object]]
    """Reads the routes of the host, so that no network behind a node conflicts with them. Raises
    `DeviceError`."""
    renew: Callable[[], Awaitable[object]]
    """Begins new sessions with all peers; raises nothing."""
    _compare_at: float = field(default=0.0, init=False)
    """The time of the next comparison of addresses and routes (monotonic seconds)."""
    _compare_took: float = field(default=0.0, init=False)

    async def run(self) -> None:
        """Start the device, wait until it is gone, and start it again. Absorbs device errors."""
        while True:
            if await self._try_start():
                await self._until_lost()
            else:
                await asyncio.sleep(RETRY)

    async def watch(self) -> None:
        """Restore the addresses and the up state. Absorbs device errors; health shows them."""
        tunnel, failed = self.tunnel, False
        self._compare_at = tunnel.clock.monotonic() + COMPARE.least
        while True:
            await tunnel.up.wait()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.own_changed.wait(), CHECK)
            self.own_changed.clear()
            try:
                await self._check()
                if tunnel.clock.monotonic() >= self._compare_at:
                    await self._compare()
                if failed:
                    await self.fill()  # a full comparison also records that the device is correct
                failed = False
            except DeviceError as error:
                failed = True
                tunnel.fail(str(error))

    async def _check(self) -> None:
        """Set the addresses if ours have changed, and bring the interface up if it is down."""
        tunnel = self.tunnel
        if await tunnel.address() and tunnel.up.is_set():
            # We were off the network. WireGuard would detect that for each peer only after 15 s.
            await self.renew()
        if not await tunnel.is_up():
            _log.warning("device.down", interface=tunnel.name)
            await tunnel.configure_again()
            await self.renew()  # the sessions ended with the interface

    async def _compare(self) -> None:
        """Undo another program's change of addresses, MTU or routes."""
        clock = self.tunnel.clock
        began = clock.monotonic()
        if await self.tunnel.configure_again():
            _log.warning("device.edited", what="addresses, MTU or routes")
        await self.survey()
        now = clock.monotonic()
        self._compare_took = now - began
        self._compare_at = now + COMPARE.pause(self._compare_took)

    async def _note_edits(self) -> None:
        """Have the interface compared soon after the kernel reports an address or a route."""
        while True:
            await self.tunnel.link.edited()
            await asyncio.sleep(AFTER_EDIT.pause(self._compare_took))
            self._compare_at = self.tunnel.clock.monotonic()
            self.own_changed.set()

    async def _until_lost(self) -> None:
        tunnel = self.tunnel
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(tunnel.link.gone()), group.create_task(tunnel.gone.wait())]
            edits = group.create_task(self._note_edits())
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in (*waits, edits):
                task.cancel()
        tunnel.lost()
        tunnel.fail("the WireGuard device has vanished; it is being set up again")

    async def _try_start(self) -> bool:
        try:
            await self.tunnel.start()
            await self.survey()
        except DeviceError as error:
            self.tunnel.fail(str(error))
            return False
        await self.fill()
        return True
