"""Listening sockets: each has its port alone, at an address that may be missing yet."""

import os
import socket
from contextlib import suppress
from typing import Final

from dstack_vpn.core.model import SocketAddress

_IP_FREEBIND: Final = 15
"""linux/in.h. Permits binding before the tunnel has its address, and while the interface is
recreated."""
_IPV6_FREEBIND: Final = 78
"""linux/in6.h"""

_FORCED: Final = {socket.SO_RCVBUF: 33, socket.SO_SNDBUF: 32}
"""SO_RCVBUFFORCE and SO_SNDBUFFORCE (asm-generic/socket.h) exceed the system's limit, with
CAP_NET_ADMIN."""

_UNPRIVILEGED: Final = 1024
"""The kernel's default of net.ipv4.ip_unprivileged_port_start."""


def bound(address: SocketAddress, kind: socket.SocketKind) -> socket.socket:
    """Return a bound socket. Raises `OSError`.

    ``::`` includes IPv4. TCP sockets have SO_REUSEADDR, so that a port with connections of an
    earlier process in TIME_WAIT can be bound, but not one with a listener. UDP sockets do not have
    it, because there it would let others bind the port too.
    """
    ipv6 = ":" in address.host
    made = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, kind)
    try:
        if ipv6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address.host != "::")
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if kind is socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def widen(udp: socket.socket, size: int) -> None:
    """Set the buffers of a UDP socket to a size in bytes, as far as the system allows."""
    for option, forced in _FORCED.items():
        try:
            udp.setsockopt(socket.SOL_SOCKET, forced, size)
        except OSError:
            with suppress(OSError):
                udp.setsockopt(socket.SOL_SOCKET, option, size)


def refusal(error: OSError, port: int) -> str:
    """Return why the system refused to bind a port, and the requirement of a low port."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if isinstance(error, PermissionError) and port < _UNPRIVILEGED:
        return f"{reason}: ports below {_UNPRIVILEGED} need CAP_NET_BIND_SERVICE here"
    return reason


def is_here(host: str) -> bool:
    """Return True if this machine has an address now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
