"""The destination address of a received datagram, from which the reply is sent.

A machine has several addresses, and a client accepts replies only from the address that it queried.
On a socket that is bound to all addresses, the kernel reports the destination of each datagram
(IP_PKTINFO, ip(7); IPV6_RECVPKTINFO, RFC 3542).
"""

import socket
import struct
from contextlib import suppress
from typing import Any, Final

from dstack_vpn.core.model import SocketAddress

_IP_PKTINFO: Final = 8
"""linux/in.h. Python names it only since 3.13."""
_IPV6_PKTINFO: Final = 50
"""linux/in6.h"""
_LONGEST: Final = 65536


def ask_for_destination(udp: socket.socket) -> None:
    """Let the kernel report the destination of each datagram, if it can."""
    with suppress(OSError):
        udp.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    if udp.family == socket.AF_INET6:
        with suppress(OSError, AttributeError):
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)


def receive_with_destination(udp: socket.socket) -> tuple[bytes, SocketAddress, str]:
    """Return a datagram, its source and its destination address. Raises `OSError`."""
    data, source, destination = receive(udp)
    return data, SocketAddress(*source[:2]), destination


def receive(udp: socket.socket) -> tuple[bytes, Any, str]:
    """Return a datagram, its source in the socket module's form, and its destination."""
    data, control, _, source = udp.recvmsg(_LONGEST, socket.CMSG_SPACE(32))
    for level, kind, value in control:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            return data, source, socket.inet_ntop(socket.AF_INET, value[4:8])
        if level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO:
            return data, source, socket.inet_ntop(socket.AF_INET6, value[:16])
    return data, source, udp.getsockname()[0]


def send_from(udp: socket.socket, data: bytes, source: str, to: Any) -> None:  # noqa: ANN401 - a socket address
    """Send a datagram from one of our addresses. Raises `OSError`."""
    if udp.family == socket.AF_INET6:
        packed = struct.pack("16si", socket.inet_pton(socket.AF_INET6, source), 0)
        control = (socket.IPPROTO_IPV6, _IPV6_PKTINFO, packed)
    else:
        packed = struct.pack("i4s4s", 0, socket.inet_aton(source), bytes(4))
        control = (socket.IPPROTO_IP, _IP_PKTINFO, packed)
    udp.sendmsg([data], [control], 0, to)
