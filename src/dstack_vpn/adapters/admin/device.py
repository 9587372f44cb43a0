"""Reads of a WireGuard device and of this host that create, bring up and load nothing."""

from collections.abc import Collection

from dstack_vpn.adapters.device.interface import Interface
from dstack_vpn.adapters.device.kernel import KernelDevice
from dstack_vpn.adapters.device.netlink import find_family
from dstack_vpn.adapters.device.process import socket_path
from dstack_vpn.adapters.device.userspace import UserspaceDevice
from dstack_vpn.adapters.device.wgnetlink import FAMILY_NAME
from dstack_vpn.core.model import Cidr, DeviceState
from dstack_vpn.errors import DeviceError, DeviceGoneError
from dstack_vpn.ports import HostRoutes


async def look(name: str) -> DeviceState | None:
    """Return the state of the interface's WireGuard. None if the interface is missing.

    Raises `DeviceError` if it exists and can't be read.
    """
    kind = await _kind(name)
    if kind is None:
        return None
    if kind == "wireguard":
        return await _kernel(name)
    return await _userspace(name)


async def _kind(name: str) -> str | None:
    interface = Interface(name)
    try:
        described = await interface.describe()
    finally:
        await interface.close()
    return None if described is None else str(described["kind"])


async def _kernel(name: str) -> DeviceState | None:
    # The interface's kind proves that the module is loaded, so this call loads nothing.
    family = await find_family(FAMILY_NAME)
    if family is None:
        raise DeviceError(f"{name}: the kernel no longer has WireGuard")
    device = KernelDevice(name, family)
    try:
        return await device.read()
    except DeviceGoneError:
        return None
    finally:
        device.close()


async def _userspace(name: str) -> DeviceState:
    try:
        device = await UserspaceDevice.connect(socket_path(name))
    except DeviceGoneError as error:
        if isinstance(error.__cause__, PermissionError):
            raise DeviceError(f"no permission to read {name}: run as root") from error
        raise DeviceError(f"{name} is not a WireGuard interface, or its wireguard-go has died") from error
    try:
        return await device.read()
    finally:
        device.close()


async def host_routes(name: str, prefixes: Collection[Cidr]) -> HostRoutes:
    """Return this host's addresses, and its routes that overlap these prefixes.

    The interface may be missing. Raises `DeviceError`.
    """
    interface = Interface(name)
    try:
        link = await interface.fact()
        routes = await interface.routes(prefixes)
        return HostRoutes(0 if link is None else link.index, routes, await interface.host_addresses())
    finally:
        await interface.close()
