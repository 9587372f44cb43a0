"""IP addresses and prefixes on their way to a device.

Ports carry them as text, and a text could carry a line break into a line protocol. Whatever is sent
passes through here first, and is validated before anything of a batch is: nothing at a device is atomic.
"""

import socket
from typing import Final

from dstack_vpn.core.model import Cidr, SocketAddress
from dstack_vpn.errors import DeviceError

BITS: Final = {socket.AF_INET: 32, socket.AF_INET6: 128}


def pack_ip(text: str) -> tuple[socket.AddressFamily, bytes]:
    """An address's family and bytes, most significant first; raises `DeviceError`."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return family, socket.inet_pton(family, text)
    except (OSError, ValueError):
        raise DeviceError(f"not an IP address: {text[:64]!r}") from None


def pack_cidr(cidr: Cidr) -> tuple[socket.AddressFamily, bytes, int]:
    """A prefix's family, bytes and length in bits; raises `DeviceError`, also for bits past the length."""
    address, slash, length = cidr.partition("/")
    family, packed = pack_ip(address)
    bits = BITS[family]
    if not (slash and length.isascii() and length.isdigit() and len(length) <= 3 and int(length) <= bits):
        raise DeviceError(f"not an address prefix: {cidr[:64]!r}")
    if int.from_bytes(packed) & ((1 << (bits - int(length))) - 1):
        raise DeviceError(f"an address prefix with bits past its length: {cidr[:64]!r}")
    return family, packed, int(length)


def pack_endpoint(endpoint: SocketAddress) -> tuple[socket.AddressFamily, bytes, int]:
    """An endpoint's family, address bytes and port; raises `DeviceError`."""
    family, packed = pack_ip(endpoint.host)
    if not 0 < endpoint.port < 65536:
        raise DeviceError(f"not a UDP port: {endpoint.port}")
    return family, packed, endpoint.port


def check_keepalive(seconds: int) -> int:
    """The keepalive interval itself; raises `DeviceError` if a device could not hold it."""
    if not 0 <= seconds < 65536:
        raise DeviceError(f"a keepalive is 0 to 65535 seconds, not {seconds}")
    return seconds


def check_port(port: int) -> int:
    """The listen port itself, 0 standing for any; raises `DeviceError`."""
    if not 0 <= port < 65536:
        raise DeviceError(f"not a UDP port: {port}")
    return port
