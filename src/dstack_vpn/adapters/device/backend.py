"""Which WireGuard the host has: the kernel's, else wireguard-go."""

from pathlib import Path
from typing import Final, Literal, TypeAlias

from dstack_vpn.adapters.device import process
from dstack_vpn.adapters.device.link import KernelLink, UserspaceLink
from dstack_vpn.adapters.device.netlink import find_family
from dstack_vpn.adapters.device.wgnetlink import FAMILY_NAME
from dstack_vpn.core.ownership import Claim
from dstack_vpn.errors import DeviceError

Backend: TypeAlias = Literal["kernel", "userspace"]

_CAP_NET_ADMIN: Final = 12


async def choose_backend(
    wanted: Literal["auto", "kernel", "userspace"], interface: str, program: str = "wireguard-go"
) -> Backend:
    """The backend to use; raises `DeviceError` naming what is missing and what to do.

    With ``auto`` a wireguard-go that runs for the interface is kept, so that a restart costs no tunnel
    because a kernel module has turned up; else the kernel's is used if it exists.
    """
    if not has_net_admin():
        raise DeviceError("no permission to create interfaces: run as root or grant CAP_NET_ADMIN")
    path = process.socket_path(interface)
    if wanted != "kernel" and path.is_socket() and not process.is_elsewhere(path):
        return "userspace"  # which needs nothing more, if it lives; else starting one says what is missing
    if wanted == "userspace":
        return _userspace(program)
    if await find_family(FAMILY_NAME) is not None:
        return "kernel"
    if wanted == "kernel":
        raise DeviceError("this kernel has no WireGuard: modprobe wireguard, or BACKEND=userspace")
    return _userspace(program)


def make_link(backend: Backend, claim: Claim, program: str = "wireguard-go") -> KernelLink | UserspaceLink:
    """The link of that backend, not yet started."""
    match backend:
        case "kernel":
            return KernelLink(claim)
        case "userspace":
            return UserspaceLink(claim, program)


def _userspace(program: str) -> Backend:
    process.find_program(program)
    if not Path(process.TUN).exists():
        raise DeviceError(f"{process.TUN} is missing: modprobe tun, or pass the device to the container")
    return "userspace"


def has_net_admin() -> bool:
    """Return True if this process may change the network of its namespace (CapEff of proc_pid_status(5))."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return False
