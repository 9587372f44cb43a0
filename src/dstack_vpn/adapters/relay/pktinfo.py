"""UDP sockets of a relay: a listening one, and one on the same port for each source.

A listening socket shares its port with no other program. With SO_REUSEADDR, Linux lets any process
bind the same UDP port, and the newest socket takes the traffic. It even assigns a port that is in
use if asked for a free one. The sockets of single sources share the port through SO_REUSEPORT,
which the kernel grants only to processes of the same user (socket(7)). The listening socket sets
that option only while such a socket is bound.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from dstack_vpn.adapters.destination import ask_for_destination
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.errors import RelayError


def listen_datagrams(address: SocketAddress) -> socket.socket:
    """Return a non-blocking UDP socket on a port that is otherwise unused; raises `RelayError`."""
    udp = _new_socket(address)
    try:
        ask_for_destination(udp)
        udp.bind(address)
    except OSError as error:
        udp.close()
        raise _listen_error(address, error) from error
    return udp


def bind_beside(listening: socket.socket, address: SocketAddress, peer: SocketAddress) -> socket.socket:
    """Return a non-blocking UDP socket on ``listening``'s port that receives from ``peer`` only.

    Raises `RelayError`.
    """
    udp = _new_socket(address)
    try:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with _sharing(listening):
            udp.bind(address)
        udp.connect(peer)
    except OSError as error:
        udp.close()
        raise _listen_error(address, error) from error
    return udp


@contextmanager
def _sharing(listening: socket.socket) -> Iterator[None]:
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        yield
    finally:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def _new_socket(address: SocketAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


def _listen_error(address: SocketAddress, error: OSError) -> RelayError:
    return RelayError(f"can't listen on udp {address}: {error.strerror}")
