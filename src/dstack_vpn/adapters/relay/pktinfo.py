"""UDP sockets: one that listens alone, those of single sources beside it, and where a datagram was sent to.

A machine has several addresses. Answers must come from the one that was asked: the first datagram of a source
tells it (IP_PKTINFO, ip(7); IPV6_RECVPKTINFO, RFC 3542), and the socket made for that source is bound to it.

A listening socket shares its port with no other program. With SO_REUSEADDR, Linux would let any process
bind the same UDP port, and the newest socket takes the traffic; it would even hand out a port that is in
use when asked for a free one. The sockets of single sources share the port by SO_REUSEPORT, which the
kernel grants to processes of one user only (socket(7)), and the listening socket allows that for the moment
of such a bind.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from dstack_vpn.core.model import SocketAddress
from dstack_vpn.errors import RelayError

_IP_PKTINFO: Final = 8
"""linux/in.h; Python 3.13 is the first to name it."""
_LONGEST: Final = 65536


def listen_datagrams(address: SocketAddress) -> socket.socket:
    """Return a non-blocking UDP socket that has its port alone; raises `RelayError`."""
    udp = _made(address)
    try:
        ask_for_destination(udp)
        udp.bind(address)
    except OSError as error:
        udp.close()
        raise _refused(address, error) from error
    return udp


def bind_beside(listening: socket.socket, address: SocketAddress, peer: SocketAddress) -> socket.socket:
    """Return a non-blocking UDP socket on a listening one's port that receives from ``peer`` only.

    Raises `RelayError`.
    """
    udp = _made(address)
    try:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with _sharing(listening):
            udp.bind(address)
        udp.connect(peer)
    except OSError as error:
        udp.close()
        raise _refused(address, error) from error
    return udp


def receive_with_destination(udp: socket.socket) -> tuple[bytes, SocketAddress, str]:
    """Return a datagram, its source, and the address that it was sent to; raises `OSError`."""
    data, control, _, source = udp.recvmsg(_LONGEST, socket.CMSG_SPACE(32))
    destination = udp.getsockname()[0]
    for level, kind, value in control:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            destination = socket.inet_ntop(socket.AF_INET, value[4:8])
        elif level == socket.IPPROTO_IPV6 and kind == getattr(socket, "IPV6_PKTINFO", None):
            destination = socket.inet_ntop(socket.AF_INET6, value[:16])
    return data, SocketAddress(*source[:2]), destination


def ask_for_destination(udp: socket.socket) -> None:
    """Have the kernel say which address each datagram was sent to, if it can."""
    with suppress(OSError):
        udp.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    if udp.family == socket.AF_INET6:
        with suppress(OSError, AttributeError):
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)


@contextmanager
def _sharing(listening: socket.socket) -> Iterator[None]:
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        yield
    finally:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def _made(address: SocketAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


def _refused(address: SocketAddress, error: OSError) -> RelayError:
    return RelayError(f"can't listen on udp {address}: {error.strerror}")
