"""UDP sockets of which several share a port, and which address a datagram was sent to.

A machine has several addresses. Answers must come from the one that was asked: the first datagram of a source
tells it (IP_PKTINFO, ip(7); IPV6_RECVPKTINFO, RFC 3542), and the socket made for that source is bound to it.
"""

import socket
from contextlib import suppress
from typing import Final

from dstack_vpn.core.model import SocketAddress
from dstack_vpn.errors import RelayError

_IP_PKTINFO: Final = 8
"""linux/in.h; Python 3.13 is the first to name it."""
_LONGEST: Final = 65536


def bind_datagrams(address: SocketAddress, peer: SocketAddress | None = None) -> socket.socket:
    """A non-blocking UDP socket at an address that others may share; raises `RelayError`.

    With ``peer`` it receives from there only.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    udp = socket.socket(family, socket.SOCK_DGRAM)
    try:
        udp.setblocking(False)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if peer is None:
            _ask_for_destination(udp, family)
        udp.bind(address)
        if peer is not None:
            udp.connect(peer)
    except OSError as error:
        udp.close()
        raise RelayError(f"can't listen on udp {address}: {error.strerror}") from error
    return udp


def receive_with_destination(udp: socket.socket) -> tuple[bytes, SocketAddress, str]:
    """A datagram, its source, and the address that it was sent to; raises `OSError`."""
    data, control, _, source = udp.recvmsg(_LONGEST, socket.CMSG_SPACE(32))
    destination = udp.getsockname()[0]
    for level, kind, value in control:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            destination = socket.inet_ntop(socket.AF_INET, value[4:8])
        elif level == socket.IPPROTO_IPV6 and kind == getattr(socket, "IPV6_PKTINFO", None):
            destination = socket.inet_ntop(socket.AF_INET6, value[:16])
    return data, SocketAddress(*source[:2]), destination


def _ask_for_destination(udp: socket.socket, family: socket.AddressFamily) -> None:
    with suppress(OSError):
        udp.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    if family == socket.AF_INET6:
        with suppress(OSError, AttributeError):
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
