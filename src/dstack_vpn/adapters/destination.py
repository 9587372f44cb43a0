"""Which address of ours a datagram was sent to, so that the answer comes from there.

A machine has several addresses, and a client takes answers only from the one that it asked. A socket on all
addresses has the kernel say so for each datagram (IP_PKTINFO, ip(7); IPV6_RECVPKTINFO, RFC 3542).
"""

import socket
import struct
from contextlib import suppress
from typing import Any, Final

from dstack_vpn.core.model import SocketAddress

_IP_PKTINFO: Final = 8
"""linux/in.h; Python 3.13 is the first to name it."""
_IPV6_PKTINFO: Final = 50
"""linux/in6.h"""
_LONGEST: Final = 65536


def ask_for_destination(udp: socket.socket) -> None:
    """Have the kernel say which address each datagram was sent to, if it can."""
    with suppress(OSError):
        udp.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    if udp.family == socket.AF_INET6:
        with suppress(OSError, AttributeError):
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)


def receive_with_destination(udp: socket.socket) -> tuple[bytes, SocketAddress, str]:
    """Return a datagram, its source, and the address that it was sent to; raises `OSError`."""
    data, source, destination = receive(udp)
    return data, SocketAddress(*source[:2]), destination


def receive(udp: socket.socket) -> tuple[bytes, Any, str]:
    """Return the same, with the source as the socket module has it: with its scope."""
    data, control, _, source = udp.recvmsg(_LONGEST, socket.CMSG_SPACE(32))
    for level, kind, value in control:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            return data, source, socket.inet_ntop(socket.AF_INET, value[4:8])
        if level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO:
            return data, source, socket.inet_ntop(socket.AF_INET6, value[:16])
    return data, source, udp.getsockname()[0]


def send_from(udp: socket.socket, data: bytes, source: str, to: Any) -> None:  # noqa: ANN401 - the socket module's own
    """Send a datagram from one of our addresses; raises `OSError`."""
    if udp.family == socket.AF_INET6:
        packed = struct.pack("16si", socket.inet_pton(socket.AF_INET6, source), 0)
        control = (socket.IPPROTO_IPV6, _IPV6_PKTINFO, packed)
    else:
        packed = struct.pack("i4s4s", 0, socket.inet_aton(source), bytes(4))
        control = (socket.IPPROTO_IP, _IP_PKTINFO, packed)
    udp.sendmsg([data], [control], 0, to)
