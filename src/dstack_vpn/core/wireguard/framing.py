"""Datagrams in a byte stream, in the format of Mullvad's udp-over-tcp.

Each datagram is preceded by its length in two bytes, big-endian, and nothing else. Every length
from 0 to 65,535 is well-formed, so a stream is never invalid; only another protocol can be
detected.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

HEADER: Final = 2
"""Bytes before each datagram."""
LONGEST_FRAME: Final = HEADER + 65535
RUN: Final = 64
"""Most frames of a run: the segments every kernel accepts (UDP_MAX_SEGMENTS, linux/udp.h)..."""
RUN_BYTES: Final = 65507
"""...and its most bytes: the limit of one UDP message over IPv4."""

Run: TypeAlias = tuple[int, int, int, int]
"""The offset of the first datagram, the size of each, their number, and the size of a shorter one.

The shorter one follows them (-1: it is missing). The kernel sends such a run of frames in one call.
"""


def frame(datagram: bytes) -> bytes:
    """Return a datagram after its length; raises `OverflowError` past 65,535 bytes."""
    return len(datagram).to_bytes(HEADER, "big") + datagram


def scan(data: bytearray, end: int, limit: int) -> tuple[list[Run], int]:
    """Return the complete frames in ``data[:end]``, and the number of their bytes.

    Stops after ``limit`` runs. Frames of equal size are counted by slices, in bounded steps, so the
    time is linear for every sequence of sizes.
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
    """Count the frames from ``position`` on with the size of the first, from 2 to ``most``."""
    stop = position + most * stride
    high, low = data[position:stop:stride], data[position + 1 : stop : stride]
    return most - max(len(high.lstrip(high[:1])), len(low.lstrip(low[:1])))


def _shorter(data: bytearray, position: int, size: int, end: int) -> int:
    """Return the size of the complete frame at ``position`` if 0 < it < ``size``, else -1."""
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
    """Return the protocol of a stream's first four bytes, or None if it may be ours.

    A frame could begin with these bytes too, but only one of thousands of bytes, which WireGuard
    never sends first.
    """
    if opening[:2] in _TLS_RECORDS and opening[2:3] <= b"\x04":
        return TLS
    return _OTHERS.get(opening[:4])
