"""Validation of IP addresses and prefixes before they are sent to a device.

Ports pass them as text, and a text may contain a line break, which would end a line of the
userspace protocol. All values of a batch are validated before the first is sent, because a device
applies no batch atomically.
"""

import socket
from typing import Final

from dstack_vpn.core.model import Cidr, SocketAddress
from dstack_vpn.errors import DeviceError

BITS: Final = {socket.AF_INET: 32, socket.AF_INET6: 128}


def pack_ip(text: str) -> tuple[socket.AddressFamily, bytes]:
    """Return an address's family and bytes in network order. Raises `DeviceError`."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return family, socket.inet_pton(family, text)
    except (OSError, ValueError):
        raise DeviceError(f"not an IP address: {text[:64]!r}") from None


def pack_cidr(cidr: Cidr) -> tuple[socket.AddressFamily, bytes, int]:
    """Return a prefix's family, bytes and length in bits.

    Raises `DeviceError`, also for host bits after the prefix.
    """
    address, slash, length = cidr.partition("/")
    family, packed = pack_ip(address)
    bits = BITS[family]
    if not (slash and length.isascii() and length.isdigit() and len(length) <= 3 and int(length) <= bits):
        raise DeviceError(f"not an address prefix: {cidr[:64]!r}")
    if int.from_bytes(packed) & ((1 << (bits - int(length))) - 1):
        raise DeviceError(f"an address prefix with host bits set: {cidr[:64]!r}")
    return family, packed, int(length)


def pack_endpoint(endpoint: SocketAddress) -> tuple[socket.AddressFamily, bytes, int]:
    """Return an endpoint's family, address bytes and port. Raises `DeviceError`."""
    family, packed = pack_ip(endpoint.host)
    if not 0 < endpoint.port < 65536:
        raise DeviceError(f"not a UDP port: {endpoint.port}")
    return family, packed, endpoint.port


def check_keepalive(seconds: int) -> int:
    """Return the keepalive interval. Raises `DeviceError` if it exceeds 16 bits."""
    if not 0 <= seconds < 65536:
        raise DeviceError(f"a keepalive is 0 to 65535 seconds, not {seconds}")
    return seconds


def check_port(port: int) -> int:
    """Return the listen port, which may be 0 (any port). Raises `DeviceError`."""
    if not 0 <= port < 65536:
        raise DeviceError(f"not a UDP port: {port}")
    return port


def check_mark(mark: int) -> int:
    """Return the mark of packets. Raises `DeviceError` if it exceeds 32 bits."""
    if not 0 <= mark < 2**32:
        raise DeviceError(f"a mark has 32 bits: {mark}")
    return mark
