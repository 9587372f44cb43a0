"""Datagrams in a byte stream, as Mullvad's udp-over-tcp has them.

Each is preceded by its length, two bytes, big-endian; there is nothing else. Every length from 0 to 65,535
is well-formed, so no stream is ever invalid: what can be told is only that another protocol is being spoken.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

HEADER: Final = 2
"""Bytes ahead of each datagram."""
LONGEST_FRAME: Final = HEADER + 65535
RUN: Final = 64
"""Frames of a run at most: as many segments as every kernel takes (UDP_MAX_SEGMENTS, linux/udp.h)..."""
RUN_BYTES: Final = 65507
"""...and bytes: what one UDP message over IPv4 can have."""

Run: TypeAlias = tuple[int, int, int, int]
"""Where the first datagram is, the size of each, how many there are, and the size of a shorter one that
follows them (-1: there is none). Equal frames in a row are what the kernel sends in one go."""


def frame(datagram: bytes) -> bytes:
    """A datagram with its length ahead; raises `OverflowError` past 65,535 bytes."""
    return len(datagram).to_bytes(HEADER, "big") + datagram


def scan(data: bytearray, end: int, limit: int) -> tuple[list[Run], int]:
    """The complete frames in ``data[:end]``, and how many bytes they take.

    Stops after ``limit`` runs. Frames of equal size are counted without a look at each, in bounded steps: no
    sequence of sizes makes this worse than linear.
    """
    runs: list[Run] = []
    append: Callable[[Run], None] = runs.append
    position = 0
    while (start := position + HEADER) <= end and len(runs) < limit:
        size = data[position] << 8 | data[position + 1]
        after = start + size
        if after > end:
            break
        stride = size + HEADER
        if after + stride > end or data[after] != data[position] or data[after + 1] != data[position + 1]:
            append((start, size, 1, -1))
            position = after
            continue
        most = min(RUN, RUN_BYTES // size) if size else 1
        count = _equal(data, position, stride, min(most, (end - position) // stride)) if most > 1 else 1
        position += count * stride
        tail = _shorter(data, position, size, end) if 1 < count < most else -1
        append((start, size, count, tail))
        position += tail + HEADER if tail >= 0 else 0
    return runs, position


def _equal(data: bytearray, position: int, stride: int, most: int) -> int:
    """How many frames from ``position`` on, at least two and at most ``most``, have the size of the first."""
    stop = position + most * stride
    high, low = data[position:stop:stride], data[position + 1 : stop : stride]
    return most - max(len(high.lstrip(high[:1])), len(low.lstrip(low[:1])))


def _shorter(data: bytearray, position: int, size: int, end: int) -> int:
    """The size of the complete frame at ``position`` if it is shorter, but not empty; else -1."""
    if position + HEADER > end:
        return -1
    tail = data[position] << 8 | data[position + 1]
    return tail if 0 < tail < size and position + HEADER + tail <= end else -1


TLS: Final = "TLS"
PROXY: Final = "the PROXY protocol"
_OTHERS: Final = {
    **dict.fromkeys((b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"CONN", b"PRI ", b"HTTP"), "HTTP"),
    **dict.fromkeys((b"PROX", b"\r\n\r\n"), PROXY),  # proxy-protocol.txt of HAProxy, 2.1 and 2.2
    b"SSH-": "SSH",
    b"220 ": "SMTP or FTP",
}
_TLS_RECORDS: Final = (b"\x16\x03", b"\x15\x03")
"""A handshake record and an alert (RFC 8446, 5.1)."""


def foreign_protocol(opening: bytes) -> str | None:
    """The protocol that a stream's first four bytes belong to, where that is not ours.

    A frame could begin like that: as one of thousands of bytes, which no WireGuard sends first.
    """
    if opening[:2] in _TLS_RECORDS and opening[2:3] <= b"\x04":
        return TLS
    return _OTHERS.get(opening[:4])
