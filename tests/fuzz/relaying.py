"""Frames of a stream, through the relay's reader and writer: `Downlink` and `Outbox`.

The stream is in memory, in pieces. The other end is a real datagram socket, so that the kernel gets
the real buffers. The received datagrams are compared with those of a simple parser.
"""

import atexit
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

from tests.fuzz.cursor import Cursor

from dstack_vpn.adapters.relay.counters import Counters
from dstack_vpn.adapters.relay.downlink import Downlink
from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.offload import Offload
from dstack_vpn.adapters.relay.outbox import Outbox, Sink
from dstack_vpn.core.wireguard import framing
from dstack_vpn.core.wireguard.wire import Watch

_WAYS: Final = tuple(
    Offload(mmsg=mmsg, gro=False, gso=gso) for gso in (False, True) for mmsg in (False, True)
)
_BUFFER: Final = 35_000
"""Bytes of the send buffer, doubled by the kernel: for any datagram, not for many small ones."""
_TURNS: Final = 10_000


def scanned(data: bytes) -> object:
    """Return the frames by `framing.scan`; None without frames, or for another protocol."""
    runs, taken = framing.scan(bytearray(data), len(data), len(data) + 1)
    found = list(_cut(data, runs))
    assert found == list(plain(data))
    assert taken == sum(map(len, found)) + framing.HEADER * len(found)
    return None if framing.foreign_protocol(data[:4]) else found or None


def plain(data: bytes) -> Iterator[bytes]:
    """Yield the complete frames."""
    at = 0
    while at + 2 <= len(data) and (end := at + 2 + int.from_bytes(data[at : at + 2], "big")) <= len(data):
        yield data[at + 2 : end]
        at = end


def _cut(data: bytes, runs: list[framing.Run]) -> Iterator[bytes]:
    for start, size, count, tail in runs:
        for index in range(count):
            at = start + index * (size + framing.HEADER)
            yield data[at : at + size]
        if tail >= 0:
            at = start + count * (size + framing.HEADER)
            yield data[at : at + tail]


def streamed(data: bytes) -> object:
    """Pass a stream through `Downlink`; return the received datagrams.

    The input begins with a byte for TLS, the number of pieces and the offloads, and with the
    pieces' sizes. Runs of equal frames (UDP_SEGMENT) arrive in one piece here, because only UDP
    splits them.
    """
    cursor = Cursor(data)
    head = cursor.byte()
    way = _WAYS[head >> 5 & 3]
    sizes = [int.from_bytes(cursor.take(2), "big") for _ in range(head >> 1 & 15)]
    stream = _Stream(list(_pieces(cursor.rest(), sizes)), plain=bool(head & 1))
    whole = b"".join(stream.pieces)
    foreign = framing.foreign_protocol(whole[:4]) if len(whole) >= 4 else None
    arrived, ended = _carry(stream, way)
    expected = [] if foreign else list(plain(whole))
    assert (b"".join(arrived) == b"".join(expected)) if way.gso else (arrived == expected)
    assert ("speaks" in ended) is bool(foreign)
    return arrived or None


def _pieces(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        if data[:size]:
            yield data[:size]
        data = data[size:]
    if data:
        yield data


def _carry(stream: "_Stream", way: Offload) -> tuple[list[bytes], str]:
    """Read the stream to its end; return the received datagrams, and the reason of the end."""
    loop = _LOOP
    ended: list[str] = []
    arrived: list[bytes] = []
    loop.reset()
    engine = cast("Engine", cast("Any", _ENGINES[way]))
    Downlink(engine, stream, _SINKS[way], Watch(), ended.append)
    for _ in range(_TURNS):
        if ended:
            break
        loop.turn()
        _receive(arrived)
    assert ended, "it neither continues nor ends"
    return arrived, ended[0]


def _receive(arrived: list[bytes]) -> None:
    while True:
        try:
            arrived.append(_OUT.recv(1 << 17))
        except BlockingIOError:
            return


class _Stream:
    """A `Stream` in memory, which closes after its last piece."""

    tls_version: str | None = None
    descriptor = -1

    def __init__(self, pieces: list[bytes], *, plain: bool) -> None:
        self.pieces, self.plain = pieces, plain
        self._next, self._left = 0, b""

    def send(self, data: object) -> int:
        raise NotImplementedError

    def recv_into(self, buffer: memoryview) -> int | None:
        if not self._left:
            if self._next == len(self.pieces):
                return 0
            self._left, self._next = self.pieces[self._next], self._next + 1
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def pending(self) -> bool:
        return not self.plain and bool(self._left)

    def close(self) -> None:
        """Do nothing: the stream has no resources."""


class _Loop:
    """The part of an event loop that `Downlink` needs, driven by `turn`."""

    def __init__(self) -> None:
        self.reader: Callable[[], None] | None = None
        self.writer: Callable[[], None] | None = None
        self._soon: list[Callable[[], None]] = []

    def reset(self) -> None:
        self.reader = self.writer = None
        self._soon = []

    def turn(self) -> None:
        """Call the writer, then the scheduled callbacks, then the reader."""
        if self.writer is not None:
            self.writer()
        soon, self._soon = self._soon, []
        for callback in soon:
            callback()
        if self.reader is not None:
            self.reader()

    def add_reader(self, _: int, callback: Callable[[], None]) -> None:
        self.reader = callback

    def remove_reader(self, _: int) -> None:
        self.reader = None

    def add_writer(self, _: int, callback: Callable[[], None]) -> None:
        self.writer = callback

    def remove_writer(self, _: int) -> None:
        self.writer = None

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)


class _Engine:
    """The part of an `Engine` that `Downlink` needs."""

    def __init__(self, loop: _Loop, way: Offload) -> None:
        self.loop, self.outbox = loop, Outbox(way)


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return connected Unix sockets. Unlike UDP's, they lose nothing: a full one gives an error."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in pair:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return pair


_LOOP: Final = _Loop()
_ENGINES: Final = {way: _Engine(_LOOP, way) for way in _WAYS}
_IN, _OUT = _socket_pair()
atexit.register(_IN.close)
atexit.register(_OUT.close)
_SINKS: Final = {way: Sink(_IN, way, Counters(), lambda: None) for way in _WAYS}
