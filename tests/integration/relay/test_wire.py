"""The bytes on the wire, with a plain TCP socket instead of the other program.

Mullvad's programs, if on PATH, pass the same tests. The strings are therefore the protocol.
"""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.relay.conftest import PATIENCE
from tests.integration.relay.programs import MULLVADS, NO_MULLVAD, OUR_KIND, Kind, mullvad_is_there

INITIATION = b"\x01\x00\x00\x00" + bytes(range(144))
DATAGRAMS = [b"a", b"", INITIATION, b"\x00\x00", b"", b"", b"x" * 256, b"y" * 256, b"y" * 256, b"z" * 65507]
WIRE = (
    b"\x00\x01a"
    b"\x00\x00"
    b"\x00\x94" + INITIATION + b"\x00\x02\x00\x00"
    b"\x00\x00\x00\x00"
    b"\x01\x00" + b"x" * 256 + b"\x01\x00" + b"y" * 256 + b"\x01\x00" + b"y" * 256
)  # fmt: skip
LONGEST = b"\xff\xe3" + b"z" * 65507


@pytest.fixture(params=[pytest.param(kind, id=kind.name) for kind in (MULLVADS, OUR_KIND)])
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param.mullvad and not mullvad_is_there():
        pytest.skip(NO_MULLVAD)
    found: Kind = request.param
    return found


@contextlib.contextmanager
def client_of_tcp2udp(kind: Kind, sink: socket.socket, folder: Path) -> Iterator[socket.socket]:
    host, port = sink.getsockname()
    with (
        kind.running("tcp2udp", f"{host}:{port}", folder) as program,
        socket.create_connection(program.address or ("", 0), timeout=PATIENCE) as connection,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


@contextlib.contextmanager
def server_of_udp2tcp(kind: Kind, source: socket.socket, folder: Path) -> Iterator[socket.socket]:
    """Yield the TCP connection of a udp2tcp, after its first datagram, ``first``."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(PATIENCE)
        port = listener.getsockname()[1]
        program = stack.enter_context(kind.running("udp2tcp", f"tcp://127.0.0.1:{port}", folder))
        assert program.address is not None
        source.connect(program.address)
        source.send(b"first")
        connection = stack.enter_context(listener.accept()[0])
        connection.settimeout(PATIENCE)
        assert exactly(connection, 7) == b"\x00\x05first"
        yield connection


def exactly(connection: socket.socket, count: int) -> bytes:
    taken = b""
    while len(taken) < count:
        more = connection.recv(count - len(taken))
        assert more, f"the stream ended after {taken!r}"
        taken += more
    return taken


def pieces(size: int) -> list[bytes]:
    """Return the stream in pieces of one size, then the longest frame as one piece."""
    return [*(WIRE[start : start + size] for start in range(0, len(WIRE), size)), LONGEST]


def received(by: socket.socket, count: int) -> list[bytes]:
    return [by.recv(65536) for _ in range(count)]


@pytest.mark.parametrize("size", [100_000, 1, 3])
def test_tcp2udp_takes_frames_from_the_stream(
    kind: Kind, size: int, sink: socket.socket, tmp_path: Path
) -> None:
    with client_of_tcp2udp(kind, sink, tmp_path) as connection:
        for piece in pieces(size):
            connection.sendall(piece)
        assert received(sink, len(DATAGRAMS)) == DATAGRAMS


def test_tcp2udp_writes_frames_to_the_stream(kind: Kind, sink: socket.socket, tmp_path: Path) -> None:
    with client_of_tcp2udp(kind, sink, tmp_path) as connection:
        connection.sendall(b"\x00\x05first")
        first, back = sink.recvfrom(65536)
        assert first == b"first"
        for datagram in DATAGRAMS:
            sink.sendto(datagram, back)
        assert exactly(connection, len(WIRE + LONGEST)) == WIRE + LONGEST


def test_tcp2udp_forgets_a_frame_that_is_never_completed(
    kind: Kind, sink: socket.socket, tmp_path: Path
) -> None:
    host, port = sink.getsockname()
    with kind.running("tcp2udp", f"{host}:{port}", tmp_path) as program:
        assert program.address is not None
        for opening in (b"\x00", b"\xff\xff", b"\x00\x03ab"):
            with socket.create_connection(program.address, timeout=PATIENCE) as connection:
                connection.sendall(opening)
        with socket.create_connection(program.address, timeout=PATIENCE) as connection:
            connection.sendall(b"\x00\x04next")
            assert sink.recv(65536) == b"next"


def test_udp2tcp_writes_frames_to_the_stream(kind: Kind, source: socket.socket, tmp_path: Path) -> None:
    with server_of_udp2tcp(kind, source, tmp_path) as connection:
        for datagram in DATAGRAMS:
            source.send(datagram)
        assert exactly(connection, len(WIRE + LONGEST)) == WIRE + LONGEST


@pytest.mark.parametrize("size", [100_000, 1, 3])
def test_udp2tcp_takes_frames_from_the_stream(
    kind: Kind, size: int, source: socket.socket, tmp_path: Path
) -> None:
    with server_of_udp2tcp(kind, source, tmp_path) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces(size):
            connection.sendall(piece)
        assert received(source, len(DATAGRAMS)) == DATAGRAMS
