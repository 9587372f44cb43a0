"""Checks of the machine: permissions, WireGuard, ports and disk space."""

import errno
import ipaddress
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Final

from dstack_vpn.adapters.device import process
from dstack_vpn.adapters.device.backend import has_net_admin
from dstack_vpn.adapters.device.netlink import find_family
from dstack_vpn.adapters.device.wgnetlink import FAMILY_NAME
from dstack_vpn.core.model import Cidr, DeviceState
from dstack_vpn.core.observe.check import Check, failed, passed, warned
from dstack_vpn.errors import DeviceError

_PUBLIC: Final = {4: "1.0.0.1", 6: "2606:4700::1"}
"""An address of the internet, by IP version."""
ROOM: Final = 16 << 20
"""Bytes that must be free on the file system of the state directory."""


def has_no_route(network: Cidr) -> bool:
    """Return whether this machine has no route to a network. 0.0.0.0/0 stands for the internet."""
    parsed = ipaddress.ip_network(network)
    somewhere = parsed.network_address + min(1, parsed.num_addresses - 1) if parsed.prefixlen else None
    address = str(somewhere or _PUBLIC[parsed.version])
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # sends nothing
    except OSError as error:
        return error.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL}
    return False


async def wireguard(backend: str, program: str = "wireguard-go") -> Check:
    """Check which WireGuard is available for the configured backend."""
    kernel = backend != "userspace" and await find_family(FAMILY_NAME) is not None
    if kernel:
        return passed("wireguard", f"the kernel's (Linux {os.uname().release})")
    if backend == "kernel":
        return failed(
            "wireguard", "this kernel has no WireGuard", "modprobe wireguard, or set BACKEND=userspace"
        )
    try:
        path = process.find_program(program)
    except DeviceError as error:
        return failed("wireguard", str(error), "apt install wireguard-go, or use a kernel with WireGuard")
    version = await process.program_version(path)
    found = f"wireguard-go {version or 'of unknown version'} ({path})"
    if process.is_outdated(version):
        return warned(
            "wireguard",
            found,
            "releases before 0.0.20231211 can stall for a minute: use a newer one (Debian 13 has it)",
        )
    return passed("wireguard", found)


def tun(backend: str) -> Check:
    """Check that wireguard-go could create its interface."""
    if backend == "kernel":
        return passed("tun", "not needed: BACKEND=kernel")
    try:
        os.close(os.open(process.TUN, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return failed("tun", f"{process.TUN} is missing", "modprobe tun, or pass the device to the container")
    except OSError as error:
        return failed(
            "tun", f"{process.TUN}: {error.strerror}", "run as root, or pass the device to the container"
        )
    return passed("tun", f"{process.TUN} can be opened")


def capabilities() -> Check:
    """Check that this process may configure the network."""
    if has_net_admin():
        return passed("capabilities", "CAP_NET_ADMIN")
    return failed(
        "capabilities", "no CAP_NET_ADMIN", "run as root, or grant it (containers: cap_add: [NET_ADMIN])"
    )


def state(folder: Path) -> Check:
    """Check that the state directory, or its nearest existing parent, is writable and has room."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return failed(
            "state", f"{there} is not writable: {error.strerror}", "mount it writable, or set STATE_DIR"
        )
    free = shutil.disk_usage(there).free
    if free < ROOM:
        return failed("state", f"{there}: {free >> 20} MiB left", "free space, or set STATE_DIR elsewhere")
    return passed("state", f"{there}: {free >> 20} MiB left")


def udp_port(port: int, interface: str, device: DeviceState | None) -> Check:
    """Check that WireGuard's port is free or in use by our interface."""
    if device is not None and device.listen_port == port:
        return passed("udp port", f"{port} is in use by {interface}")
    return _port("udp port", port, "::", socket.SOCK_DGRAM, "LISTEN_PORT")


def http_port(host: str, port: int, *, running: bool) -> Check:
    """Check that the HTTP port is free or in use by the daemon."""
    if not port:
        return passed("http port", "switched off")
    if running:
        return passed("http port", f"the daemon replies on {host}:{port}")
    return _port("http port", port, host, socket.SOCK_STREAM, "HEALTH_CHECK_PORT")


def _port(name: str, port: int, host: str, kind: socket.SocketKind, setting: str) -> Check:
    host = "127.0.0.1" if host == "localhost" else host
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as probe:
            if kind is socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT and host == "::":
            return _port(name, port, "0.0.0.0", kind, setting)
        return failed(
            name, f"{port}: {error.strerror}", f"stop the program that uses it, or choose another {setting}"
        )
    return passed(name, f"{port} is free")
