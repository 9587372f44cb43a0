"""UDP sockets for the tests of relays."""

import socket
from collections.abc import Iterator

import pytest

PATIENCE = 10.0
"""Seconds for a datagram to arrive."""


def udp_socket() -> socket.socket:
    """Return a UDP socket on loopback, with buffers for the bursts that the tests send."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    made.settimeout(PATIENCE)
    made.bind(("127.0.0.1", 0))
    return made


@pytest.fixture
def source() -> Iterator[socket.socket]:
    """Yield a socket that sends to a udp2tcp."""
    with udp_socket() as made:
        yield made


@pytest.fixture
def sink() -> Iterator[socket.socket]:
    """Yield a socket that receives from a tcp2udp."""
    with udp_socket() as made:
        yield made
