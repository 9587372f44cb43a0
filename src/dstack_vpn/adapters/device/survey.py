"""Collection of the facts about the host that `core.ownership` judges.

It makes one dump each of links, addresses and routes. It also reads the device with our interface's
name, if only that can prove its owner. It creates and changes no interface, and loads only the
kernel module that the start would load.
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
"""The limit in seconds for reading another program's device."""


async def survey(claim: Claim, backend: str) -> Host:
    """Return the facts about the host. ``backend`` is the setting.

    Raises `DeviceError` if the kernel does not reply.
    """
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
    """Return the device with our name, and True if a device exists but can't be read."""
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
        raise DeviceError(f"{name}: the kernel no longer has WireGuard")
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
