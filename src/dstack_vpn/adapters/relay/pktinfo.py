"""UDP sockets: one that listens alone, and those of single sources beside it.

A listening socket shares its port with no other program. With SO_REUSEADDR, Linux would let any process
bind the same UDP port, and the newest socket takes the traffic; it would even hand out a port that is in
use when asked for a free one. The sockets of single sources share the port by SO_REUSEPORT, which the
kernel grants to processes of one user only (socket(7)), and the listening socket allows that for the moment
of such a bind.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from dstack_vpn.adapters.destination import ask_for_destination
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.errors import RelayError


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
