"""Sources that ask too fast are dropped by the kernel for a moment.

A refused question costs a call to read it, and while it waits it takes the room of others' questions: the
socket's buffer knows no sources. So after some refusals in a row a filter on the socket (SO_ATTACH_FILTER,
socket(7)) drops that source's datagrams before they are queued. A flood then costs the same at any pace. The
filter is classic BPF, which needs no privilege; a system without it reads and refuses as before.
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
"""Refusals of a source..."""
WITHIN: Final = 1.0
"""...in so many seconds, after which it is shunned."""
PAUSE: Final = 1.0
"""Seconds for which it is."""
MOST: Final = 128
"""Sources that are shunned at once: each makes the filter longer."""
COUNTED: Final = 4096
"""Sources whose refusals are counted."""

_ATTACH: Final = 26
"""SO_ATTACH_FILTER (asm-generic/socket.h)."""
_DETACH: Final = 27
"""SO_DETACH_FILTER."""
_LD_B, _LD_W, _AND, _JEQ, _JA, _RET = 0x30, 0x20, 0x54, 0x15, 0x05, 0x06
"""Instructions (linux/bpf_common.h)."""
_NET: Final = 0xFFF0_0000
"""SKF_NET_OFF (linux/filter.h): offsets from here count from the IP header."""
_PASS, _DROP = (_RET, 0, 0, 0xFFFF_FFFF), (_RET, 0, 0, 0)
_SOURCE: Final = {4: (12,), 6: (8, 12, 16, 20)}
"""Offsets of the source address in the IP header, a word each."""

Instruction = tuple[int, int, int, int]
"""Code, steps to skip if true, steps to skip if false, operand."""


class Shunned:
    """The sources that a UDP socket is not to hear now."""

    def __init__(self, udp: socket.socket) -> None:
        self._udp = udp
        self._refused: dict[str, tuple[int, float]] = {}
        """How often, and since when (the event loop's clock)."""
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def refused(self, host: str) -> None:
        """A datagram of a source was read and refused."""
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
            self._timers[host] = loop.call_later(PAUSE, self._hear_again, host)
            self._attach()

    def close(self) -> None:
        """Forget everything; the socket is the caller's."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _hear_again(self, host: str) -> None:
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
    """Replace a socket's filter; raises `OSError`."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in instructions))
    udp.setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("@HP", len(instructions), ctypes.addressof(code)))


def program(hosts: Iterable[str]) -> list[Instruction]:
    """A filter that drops what these addresses send, and nothing else, on a socket of either family."""
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
            yield (_JEQ, 0, 2 * (len(words) - number) - 1, word)  # another address: the next one's part
        yield _DROP
