"""Sockets to listen on: each has its port alone, at an address that this machine need not have yet."""

import os
import socket
from contextlib import suppress
from typing import Final

from dstack_vpn.core.model import SocketAddress

_IP_FREEBIND: Final = 15
"""linux/in.h: bind before the tunnel has its address, and keep it while the interface is made again."""
_IPV6_FREEBIND: Final = 78
"""linux/in6.h"""

_FORCED: Final = {socket.SO_RCVBUF: 33, socket.SO_SNDBUF: 32}
"""SO_RCVBUFFORCE and SO_SNDBUFFORCE (asm-generic/socket.h): beyond the system's limit, with CAP_NET_ADMIN."""

_UNPRIVILEGED: Final = 1024
"""The kernel's default of net.ipv4.ip_unprivileged_port_start."""


def bound(address: SocketAddress, kind: socket.SocketKind) -> socket.socket:
    """Return a socket that is bound; raises `OSError`.

    ``::`` takes IPv4 as well. A port that connections of an earlier process still wait on can be had, one
    that anybody listens on can't: for TCP that is what SO_REUSEADDR means, for UDP it would let others take
    the port.
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
    """Give a UDP socket buffers of so many bytes, as far as the system allows."""
    for asked, forced in _FORCED.items():
        try:
            udp.setsockopt(socket.SOL_SOCKET, forced, size)
        except OSError:
            with suppress(OSError):
                udp.setsockopt(socket.SOL_SOCKET, asked, size)


def refusal(error: OSError, port: int) -> str:
    """Return why the system refused to bind a port, and what a low port needs."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if isinstance(error, PermissionError) and port < _UNPRIVILEGED:
        return f"{reason}: ports below {_UNPRIVILEGED} need CAP_NET_BIND_SERVICE here"
    return reason


def is_here(host: str) -> bool:
    """Return whether this machine has an address now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
