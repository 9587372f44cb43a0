"""A look at the host before anything is changed: the facts that `core.ownership` judges.

One dump of links, addresses and routes each, and the device behind our interface's name, if only that can
prove whose it is. Nothing is created, brought up, or loaded into the kernel but what the start would load.
"""

import asyncio
from typing import Final

from dstack_vpn.adapters.device import process
from dstack_vpn.adapters.device.interface import Interface
from dstack_vpn.adapters.device.kernel import KernelDevice
from dstack_vpn.adapters.device.netlink import find_family
from dstack_vpn.adapters.device.userspace import UserspaceDevice
from dstack_vpn.adapters.device.wgnetlink import FAMILY_NAME
from dstack_vpn.core.model import DeviceState
from dstack_vpn.core.ownership import Claim, DeviceFact, Host, LinkFact, with_addresses
from dstack_vpn.errors import DeviceError, DeviceGoneError

PATIENCE: Final = 3.0
"""Seconds for a foreign device to describe itself."""


async def survey(claim: Claim, backend: str) -> Host:
    """Look at the host; ``backend`` is the setting. Raises `DeviceError` if the kernel does not answer."""
    path = process.socket_path(claim.interface)
    interface = Interface(claim.interface)
    try:
        link = await interface.fact()
        addresses = await interface.host_addresses()
        routes = await interface.routes(claim.prefixes)
        link = None if link is None else with_addresses(link, addresses)
    finally:
        await interface.close()
    if await _needs_socket(backend) and process.is_elsewhere(path):
        return Host(link, elsewhere=str(path), routes=routes, addresses=addresses)
    device, unreadable = await _device(claim, link)
    return Host(link, device, unreadable, routes=routes, addresses=addresses)


async def _needs_socket(backend: str) -> bool:
    return backend == "userspace" or (backend == "auto" and await find_family(FAMILY_NAME) is None)


async def _device(claim: Claim, link: LinkFact | None) -> tuple[DeviceFact | None, bool]:
    """The device behind our name, and whether there is one that can't be read."""
    if link is None or claim.identity.proof(link, None) is not None:
        return None, False
    read = _kernel if link.kind == "wireguard" else _userspace
    try:
        async with asyncio.timeout(PATIENCE):
            state = await read(claim.interface)
    except DeviceGoneError as error:
        return None, isinstance(error.__cause__, PermissionError)
    except (DeviceError, TimeoutError):
        return None, True
    return DeviceFact(state.public_key, len(state.peers)), False


async def _kernel(name: str) -> DeviceState:
    family = await find_family(FAMILY_NAME)
    if family is None:
        raise DeviceError(f"{name}: the kernel has no WireGuard any more")
    device = KernelDevice(name, family)
    try:
        return await device.read()
    finally:
        device.close()


async def _userspace(name: str) -> DeviceState:
    device = await UserspaceDevice.connect(process.socket_path(name))
    try:
        return await device.read()
    finally:
        device.close()
