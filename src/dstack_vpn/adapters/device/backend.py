"""Selection of the host's WireGuard backend: the kernel module, else wireguard-go."""

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
    """Return the backend to use. Raises `DeviceError` with what is missing and the remedy.

    ``auto`` keeps a wireguard-go that runs for the interface. Otherwise a restart would interrupt
    the tunnel when a kernel module has become available. If none runs, it uses the kernel module if
    available.
    """
    if not has_net_admin():
        raise DeviceError("no permission to create interfaces: run as root or grant CAP_NET_ADMIN")
    path = process.socket_path(interface)
    if wanted != "kernel" and path.is_socket() and not process.is_elsewhere(path):
        return "userspace"  # if it has died, starting a new one reports what is missing
    if wanted == "userspace":
        return _userspace(program)
    if await find_family(FAMILY_NAME) is not None:
        return "kernel"
    if wanted == "kernel":
        raise DeviceError("this kernel has no WireGuard: modprobe wireguard, or BACKEND=userspace")
    return _userspace(program)


def make_link(backend: Backend, claim: Claim, program: str = "wireguard-go") -> KernelLink | UserspaceLink:
    """Return the link of a backend, not yet started."""
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
    """Return True if this process may configure the network of its namespace.

    The source is CapEff of proc_pid_status(5).
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return False
