"""What both kinds of relay tests hold in their hands."""

import socket
from collections.abc import Iterator

import pytest

PATIENCE = 10.0
"""Seconds for a datagram to arrive."""


def udp_socket() -> socket.socket:
    """A UDP socket of this machine, with room for what the tests send at once."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    made.settimeout(PATIENCE)
    made.bind(("127.0.0.1", 0))
    return made


@pytest.fixture
def source() -> Iterator[socket.socket]:
    """Who sends to a udp2tcp."""
    with udp_socket() as made:
        yield made


@pytest.fixture
def sink() -> Iterator[socket.socket]:
    """What a tcp2udp sends to."""
    with udp_socket() as made:
        yield made
