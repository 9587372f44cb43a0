"""A kernel filter that drops datagrams of sources that send queries too fast.

A refused query costs a read. While it waits, it also takes other sources' room in the socket's
buffer, which has no limit per source. After some refusals in a row a filter on the socket
(SO_ATTACH_FILTER, socket(7)) drops the source's datagrams before they are queued. A flood then
costs the same at any rate. The filter is classic BPF, which needs no privilege. Without support for
it, datagrams are read and refused as before.
"""

import asyncio
import ctypes
import ipaddress
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import Final

AFTER: Final = 32
"""Refusals of a source within `WITHIN` seconds after which it is dropped."""
WITHIN: Final = 1.0
"""Seconds."""
PAUSE: Final = 1.0
"""Seconds for which a source is dropped."""
MOST: Final = 128
"""The limit of sources that are dropped at once. Each makes the filter longer."""
COUNTED: Final = 4096
"""The limit of sources whose refusals are counted."""

_ATTACH: Final = 26
"""SO_ATTACH_FILTER (asm-generic/socket.h)."""
_DETACH: Final = 27
"""SO_DETACH_FILTER."""
_LD_B, _LD_W, _AND, _JEQ, _JA, _RET = 0x30, 0x20, 0x54, 0x15, 0x05, 0x06
"""Instructions (linux/bpf_common.h)."""
_NET: Final = 0xFFF0_0000
"""SKF_NET_OFF (linux/filter.h): offsets from here are relative to the IP header."""
_PASS, _DROP = (_RET, 0, 0, 0xFFFF_FFFF), (_RET, 0, 0, 0)
_SOURCE: Final = {4: (12,), 6: (8, 12, 16, 20)}
"""Offsets of the words of the source address in the IP header."""

Instruction = tuple[int, int, int, int]
"""Code, instructions to skip if true, instructions to skip if false, operand."""


class SourceFilter:
    """The sources whose datagrams a UDP socket drops."""

    def __init__(self, udp: socket.socket) -> None:
        self._udp = udp
        self._refused: dict[str, tuple[int, float]] = {}
        """The number of refusals, and the time of the first on the event loop's clock."""
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def refused(self, host: str) -> None:
        """Count a refused datagram of a source."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        count, since = self._refused.get(host, (0, now))
        if now - since > WITHIN:
            count, since = 0, now
        if len(self._refused) >= COUNTED:
            self._refused.clear()
        self._refused[host] = count + 1, since
        # Datagrams queued before the filter are still read.
        if count + 1 >= AFTER and host not in self._timers and len(self._timers) < MOST:
            self._timers[host] = loop.call_later(PAUSE, self._readmit, host)
            self._attach()

    def close(self) -> None:
        """Cancel all timers. The caller closes the socket."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _readmit(self, host: str) -> None:
        del self._timers[host]
        self._refused.pop(host, None)
        self._attach()

    def _attach(self) -> None:
        with suppress(OSError):
            if self._timers:
                attach(self._udp, program(self._timers))
            else:
                self._udp.setsockopt(socket.SOL_SOCKET, _DETACH, 0)


def attach(udp: socket.socket, instructions: Collection[Instruction]) -> None:
    """Replace a socket's filter. Raises `OSError`."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in instructions))
    udp.setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("@HP", len(instructions), ctypes.addressof(code)))


def program(hosts: Iterable[str]) -> list[Instruction]:
    """Return a filter, for sockets of both families, that drops datagrams of these addresses."""
    addresses = [ipaddress.ip_address(host) for host in hosts]
    parts = {v: [*_drop(v, [a.packed for a in addresses if a.version == v]), _PASS] for v in (4, 6)}
    # The version is in the first four bits.
    begin = [(_LD_B, 0, 0, _NET), (_AND, 0, 0, 0xF0), (_JEQ, 1, 0, 0x40), (_JA, 0, 0, len(parts[4]))]
    return [*begin, *parts[4], *parts[6]]


def _drop(version: int, addresses: Iterable[bytes]) -> Iterator[Instruction]:
    for packed in addresses:
        words = struct.unpack(f"!{len(packed) // 4}I", packed)
        for number, (offset, word) in enumerate(zip(_SOURCE[version], words, strict=True)):
            yield (_LD_W, 0, 0, _NET + offset)
            yield (_JEQ, 0, 2 * (len(words) - number) - 1, word)  # else skip to the next address
        yield _DROP
