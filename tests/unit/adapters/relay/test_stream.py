"""The plain stream on a real pair of sockets. It never blocks."""

import socket
from collections.abc import Iterator

import pytest

from dstack_vpn.adapters.relay.stream import PlainStream

Both = tuple[PlainStream, socket.socket]


@pytest.fixture
def both() -> Iterator[Both]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    stream = PlainStream(ours)
    yield stream, theirs
    stream.close()
    theirs.close()


def test_bytes_come_as_they_are_and_nothing_waits_in_the_process(both: Both) -> None:
    stream, theirs = both
    theirs.sendall(b"hello")
    room = bytearray(3)
    assert (stream.recv_into(memoryview(room)), bytes(room)) == (3, b"hel")
    assert not stream.pending()
    assert (stream.recv_into(memoryview(room)), bytes(room[:2])) == (2, b"lo")


def test_an_empty_stream_is_not_an_ended_one(both: Both) -> None:
    stream, theirs = both
    room = memoryview(bytearray(8))
    assert stream.recv_into(room) is None
    theirs.close()
    assert stream.recv_into(room) == 0


def test_a_full_stream_takes_what_goes_and_then_nothing(both: Both) -> None:
    stream, theirs = both
    data = bytes(1 << 20)
    sent = 0
    while taken := stream.send(data):
        sent += taken
    assert stream.send(data) == 0
    assert sent < 64 * len(data)
    received = 0
    while received < sent:
        received += len(theirs.recv(1 << 16))
    assert stream.send(b"x") == 1


def test_a_connection_that_was_reset_is_an_error(both: Both) -> None:
    stream, theirs = both
    theirs.close()
    with pytest.raises(OSError):  # the errno depends on the kind of socket
        for _ in range(3):
            stream.send(b"x")
