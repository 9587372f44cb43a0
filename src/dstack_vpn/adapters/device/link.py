"""The interface of a device: `UserspaceLink` for wireguard-go, `KernelLink` for the kernel's.

`start` creates, adopts or restarts: it checks what exists and adds what is missing. It can be
called again after any failure. A restarted device has neither key nor peers, which the caller must
restore. `gone` reports when that is necessary.

An existing interface must be ours (`core.ownership`). Any other interface is refused, and `stop`
removes only what `start` has created or proven to be ours.

`start` also brings the interface up, without addresses. Only then does WireGuard open its UDP
socket, so only then can `Device.configure` detect that the port is in use. Both backends behave the
same in this.
"""

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Final

import structlog

from dstack_vpn.adapters.device import process
from dstack_vpn.adapters.device.interface import Interface
from dstack_vpn.adapters.device.kernel import KernelDevice
from dstack_vpn.adapters.device.netlink import LinkWatch, find_family
from dstack_vpn.adapters.device.userspace import UserspaceDevice
from dstack_vpn.adapters.device.wgnetlink import FAMILY_NAME
from dstack_vpn.core.model import Cidr, DeviceState, RemovePeer
from dstack_vpn.core.ownership import (
    Claim,
    DeviceFact,
    LinkFact,
    Proof,
    elsewhere,
    foreign,
    is_network,
    taken,
    with_addresses,
)
from dstack_vpn.errors import DeviceError, DeviceGoneError
from dstack_vpn.ports import Device, HostRoutes, LinkSettings

_log = structlog.get_logger()

START_TIMEOUT: Final = 5.0
"""Seconds for wireguard-go to open its UDP socket. It takes 10 ms."""
END_TIMEOUT: Final = 5.0
_POLL: Final = 0.001


class _Link(ABC):
    """The rtnetlink operations that both links share."""

    def __init__(self, claim: Claim) -> None:
        self.name = process.check_name(claim.interface)
        self._claim = claim
        self._interface = Interface(self.name)
        self._proof: Proof | None = None
        """The reason why the interface is ours. None until it was proven."""
        self._settings: LinkSettings | None = None
        self._taken: str | None = None
        self._watch: LinkWatch | None = None

    @abstractmethod
    async def start(self) -> Device:
        """Create the interface with its device, or adopt it. Raises `DeviceError`."""

    @abstractmethod
    async def gone(self) -> None:
        """Return when the device has died or the interface was deleted."""

    @abstractmethod
    async def stop(self, *, keep: bool) -> None:
        """Remove the interface and its routes. With ``keep``, only release them."""

    async def configure(self, settings: LinkSettings) -> bool:
        """Apply the settings to MTU, state, addresses and routes. Raises `DeviceError`.

        Return True if MTU, addresses or routes were changed.
        """
        if settings.name != self.name:
            raise DeviceError(f"settings for {settings.name} can't configure {self.name}")
        index = await self._interface.index()
        present = await self._interface.routes(settings.routes | (settings.networks or frozenset()))
        networks = settings.networks
        if networks is None:
            networks = frozenset(each.prefix for each in present if is_network(each, index))
        # First, because later steps can fail: from here on no traffic leaves by another interface.
        changed = await self._interface.set_blackholes(settings.routes | networks, present)
        changed |= await self._interface.set_mtu(settings.mtu)
        await self._interface.bring_up()
        if settings.addresses is not None:
            changed |= await self._interface.set_addresses(settings.addresses)
        changed |= await self._interface.set_routes(settings.routes, present)
        changed |= await self._interface.set_networks(networks, present)
        self._taken = taken(present, self._claim, index)
        self._settings = settings
        return changed

    async def edited(self) -> None:
        """See `ports.Link.edited`."""
        if self._watch is None:
            raise DeviceError(f"the interface {self.name} has not been set up yet")
        await self._watch.edited()

    async def survey(self, prefixes: Collection[Cidr]) -> HostRoutes:
        """See `ports.Link.survey`."""
        index = await self._interface.index()
        routes = await self._interface.routes(prefixes)
        return HostRoutes(index, routes, await self._interface.host_addresses())

    def obstacle(self) -> str | None:
        """See `ports.Link.obstacle`."""
        return self._taken

    @property
    def without_ipv6(self) -> bool:
        """See `ports.Link.without_ipv6`."""
        return self._interface.without_ipv6

    async def is_up(self) -> bool:
        """Return True if the interface exists and is up."""
        described = await self._interface.describe()
        return described is not None and bool(described["up"])

    async def _own(self, link: LinkFact, state: DeviceState | None, *, made: bool = False) -> None:
        """Check that the interface is ours, and mark it. Raises `DeviceError` if it is not."""
        identity, known = self._claim.identity, link.index == self._interface.claimed
        if state is not None and state.public_key is None:
            link = with_addresses(link, await self._interface.host_addresses())
        device = None if state is None else DeviceFact(state.public_key, len(state.peers))
        proof = Proof.MADE if made else self._proof if known else identity.proof(link, device)
        if proof is None:
            problem = " ".join(map(str, foreign(self.name, link, device, identity)))
            raise DeviceError(problem or f"{self.name} is not ours")
        self._proof, self._interface.claimed = proof, link.index
        self._watch_interface(link.index)
        if link.alias != (mark := identity.mark(proof)):
            await self._interface.set_alias(mark)

    def _watch_interface(self, index: int) -> None:
        if self._watch is not None and self._watch.index == index and not self._watch.gone.is_set():
            return
        self._unwatch()
        self._watch = LinkWatch(index)

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    async def _remove_interface(self) -> None:
        """Remove our routes, and the interface if it is ours."""
        if self._proof is not None and self._proof is not Proof.FOUND:
            await self._interface.delete()
        elif self._proof is None and await self._interface.describe() is not None:
            _log.warning("device.left_alone", interface=self.name)
        await self._interface.set_blackholes((), await self._interface.routes(()))
        self._settings, self._proof, self._interface.claimed = None, None, None

    async def _restore_blank(self, device: "UserspaceDevice | KernelDevice | None") -> None:
        """Restore an interface that existed before us: no key, peers, addresses or mark."""
        if device is None or await self._interface.describe() is None:
            return
        try:
            await device.apply([RemovePeer(key) for key in (await device.read()).peers])
            await device.forget_key()
            await self._interface.set_addresses(())
            await self._interface.take_down()
            await self._interface.set_alias("")
        except DeviceError as error:
            _log.warning("device.left_alone", interface=self.name, problem=str(error))


class UserspaceLink(_Link):
    """An interface whose device is wireguard-go. `process` describes how both are kept alive."""

    def __init__(self, claim: Claim, program: str = "wireguard-go") -> None:
        super().__init__(claim)
        self._program = program
        self._path: Path | None = None
        self._offloads = False
        self._tun = -1
        self._socket: tuple[int, int] | None = None
        """The control socket of our device."""
        self._child: process.Child | None = None
        self._device: UserspaceDevice | None = None

    async def start(self) -> UserspaceDevice:
        """Adopt the running wireguard-go, or start one. Raises `DeviceError`.

        With an existing interface a start takes 5 to 15 ms, and addresses and routes are kept.
        """
        if self._device is None or self._device.is_gone:
            self._device = await self._adopt() or await self._spawn()
        return self._device

    async def _adopt(self) -> UserspaceDevice | None:
        path = process.socket_path(self.name)
        if process.is_elsewhere(path):
            raise DeviceError(str(elsewhere(str(path))))
        bound = process.socket_id(path)
        try:
            device = await UserspaceDevice.connect(path)
            state = await device.read()
        except DeviceGoneError:
            return None
        link = await self._interface.fact()
        if link is None:
            await self._ended(device)
            return None
        try:
            await self._own(link, state)
        except DeviceError:
            device.close()
            raise
        self._socket = bound
        await self._interface.bring_up()
        _log.info("device.adopted", interface=self.name, peers=len(state.peers))
        return device

    async def _ended(self, device: UserspaceDevice) -> None:
        """Wait for the end of a wireguard-go that lost its interface.

        Raises `DeviceError` if it continues to run.
        """
        try:
            async with asyncio.timeout(END_TIMEOUT):
                await device.gone()
        except TimeoutError:
            raise DeviceError(f"a wireguard-go without an interface listens for {self.name}") from None
        finally:
            device.close()

    async def _spawn(self) -> UserspaceDevice:
        path, socket_path = self._path or await self._find_program(), process.socket_path(self.name)
        await self._hold_tun()
        with process.bind_socket(socket_path) as listener:
            self._socket = process.socket_id(socket_path)
            self._child = process.spawn(path, self.name, self._tun, listener)
        await self._interface.bring_up()
        try:
            async with asyncio.timeout(START_TIMEOUT):
                device = await UserspaceDevice.connect(socket_path)
                await _listening(device)
        except DeviceGoneError as error:
            raise DeviceError("wireguard-go died while it started") from error
        except TimeoutError:
            self._child.terminate()
            raise DeviceError(f"wireguard-go did not start within {START_TIMEOUT:g} s") from None
        if self._settings is not None:
            # wireguard-go has set another one.
            await self._interface.set_mtu(self._settings.mtu)
        _log.info("device.started", interface=self.name, pid=self._child.pid)
        return device

    async def _find_program(self) -> Path:
        path = process.find_program(self._program)
        version = await process.program_version(path)
        if process.is_outdated(version):
            _log.warning(
                "device.outdated",
                program=str(path),
                version=version,
                reason="its control socket can stall for a minute: use 0.0.20231211 or newer",
            )
        self._offloads = process.has_offloads(path)
        self._path = path
        return path

    async def _hold_tun(self) -> None:
        """Open a TUN interface: the one that survived its wireguard-go, or a new one."""
        if self._tun >= 0 and not process.is_attached(self._tun):
            self._close_tun()
        if self._tun >= 0:
            return
        present = await self._interface.fact()
        if present is not None:
            await self._own(present, None)
        tun = process.open_tun(self.name, offloads=self._offloads, new=present is None)
        try:
            if present is None and (link := await self._interface.fact()) is not None:
                # Mark it before it becomes persistent, so that it is recognized after a crash.
                await self._own(link, None, made=True)
            process.persist(tun)
        except BaseException:
            os.close(tun)
            raise
        self._tun = tun

    def _close_tun(self) -> None:
        if self._tun >= 0:
            os.close(self._tun)
            self._tun = -1

    async def gone(self) -> None:
        """Return when wireguard-go has died, which it also does when its interface is deleted."""
        if self._device is not None:
            await self._device.gone()

    async def is_up(self) -> bool:
        """Return True if the interface exists, is up, and its wireguard-go runs."""
        return self._device is not None and not self._device.is_gone and await super().is_up()

    async def stop(self, *, keep: bool) -> None:
        """Remove the interface, its routes and wireguard-go. With ``keep``, only release them."""
        device, self._device = self._device, None
        if not keep:
            await self._remove(device)
        if device is not None:
            device.close()
        if self._child is not None:
            self._child.release()
            self._child = None
        self._close_tun()
        self._unwatch()
        await self._interface.close()

    async def _remove(self, device: UserspaceDevice | None) -> None:
        found = self._proof is Proof.FOUND
        if found:
            await self._restore_blank(device)
        await self._remove_interface()
        self._close_tun()
        if found:
            return
        if device is not None:
            await self._ended(device)
        if self._child is not None:
            await self._child.dead.wait()
        path = process.socket_path(self.name)
        if self._socket is not None and process.socket_id(path) == self._socket:
            path.unlink(missing_ok=True)


async def _listening(device: UserspaceDevice) -> None:
    """Wait until wireguard-go has a port, which it has once it saw its interface come up."""
    while not (await device.read()).listen_port:  # noqa: ASYNC110  # another process sets it
        await asyncio.sleep(_POLL)


class KernelLink(_Link):
    """An interface of the kernel's WireGuard."""

    def __init__(self, claim: Claim) -> None:
        super().__init__(claim)
        self._device: KernelDevice | None = None

    async def start(self) -> KernelDevice:
        """Create the interface, or adopt the existing one. Raises `DeviceError`."""
        if self._device is not None and self._watch is not None and not self._watch.gone.is_set():
            return self._device
        self._close()
        family = await find_family(FAMILY_NAME)
        if family is None:
            raise DeviceError("this kernel has no WireGuard: modprobe wireguard, or BACKEND=userspace")
        present = await self._interface.fact()
        made = present is None and await self._interface.create("wireguard")
        link = present or await self._interface.fact()
        if link is None or link.kind != "wireguard":
            raise DeviceError(
                f"{self.name} is not a WireGuard interface of the kernel, and is not changed: "
                "choose another INTERFACE"
            )
        self._watch_interface(link.index)
        self._device = KernelDevice(self.name, family)
        try:
            await self._own(link, None if made else await self._device.read(), made=made)
            await self._interface.bring_up()
        except BaseException:
            self._close()
            raise
        return self._device

    async def gone(self) -> None:
        """Return when the interface was deleted."""
        if self._watch is not None:
            await self._watch.gone.wait()

    async def stop(self, *, keep: bool) -> None:
        """Remove the interface and its routes. With ``keep``, only release them."""
        if not keep:
            if self._proof is Proof.FOUND:
                await self._restore_blank(self._device)
            await self._remove_interface()
        self._close()
        await self._interface.close()

    def _close(self) -> None:
        self._unwatch()
        if self._device is not None:
            self._device.close()
            self._device = None
