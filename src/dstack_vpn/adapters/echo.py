"""ICMP echoes (RFC 792, RFC 4443) on a ping socket, or on a raw socket.

A ping socket (icmp(7)) needs no privilege if the group is in net.ipv4.ping_group_range, which
systemd, Docker and Podman permit by default. A raw socket needs CAP_NET_RAW. The kernel records the
time at which a reply arrived, so that a busy event loop does not make peers look far.
"""

import asyncio
import secrets
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.adapters.clock import SystemClock

_CLOCK: Final = SystemClock()
_ECHO: Final = struct.Struct("!BBHHHQ")
"""Type, code, checksum, identifier, sequence number, and the nonce as the data."""
_TIMESTAMP: Final = 35
"""SO_TIMESTAMPNS (asm-generic/socket.h): seconds and nanoseconds of a datagram's arrival."""
_SOL_RAW, _FILTER, _FILTER_6 = 255, 1, 1
"""ICMP_FILTER (linux/icmp.h) and ICMPV6_FILTER (linux/icmpv6.h): the types to drop."""
_AT_ONCE: Final = 64
"""Replies that are read before other tasks have a turn."""
_LARGEST: Final = 256
"""Bytes of a packet: more than a reply to us has."""


@dataclass(frozen=True, slots=True)
class _Family:
    family: socket.AddressFamily
    protocol: int
    request: int
    reply: int


_FAMILIES: Final = (
    _Family(socket.AF_INET, socket.IPPROTO_ICMP, 8, 0),
    _Family(socket.AF_INET6, socket.IPPROTO_ICMPV6, 128, 129),
)


@dataclass(slots=True)
class _Socket:
    family: _Family
    opened: socket.socket
    raw: bool


@dataclass(slots=True)
class IcmpEcho:
    """Implements `ports.Echo`."""

    _sockets: dict[socket.AddressFamily, _Socket] = field(default_factory=dict)
    _identifier: int = field(default_factory=lambda: secrets.randbelow(65_536))

    def start(self, replied: Callable[[int, str, float], None]) -> str | None:
        """See `Echo.start`."""
        problem: OSError | None = None
        for family in _FAMILIES:
            if family.family in self._sockets:
                continue
            try:
                found = self._sockets[family.family] = _opened(family)
            except OSError as error:
                problem = problem or error
                continue
            asyncio.get_running_loop().add_reader(found.opened.fileno(), self._on_packets, found, replied)
        if self._sockets:
            return None
        return f"no ICMP socket can be opened: {problem.strerror if problem else 'unknown'}"

    def send(self, address: str, nonce: int) -> float:
        """See `Echo.send`."""
        found = self._sockets.get(socket.AF_INET6 if ":" in address else socket.AF_INET)
        sent = _CLOCK.now()
        if found is not None:
            packet = _ECHO.pack(found.family.request, 0, 0, self._identifier, nonce & 0xFFFF, nonce)
            if found.raw and found.family.family == socket.AF_INET:
                packet = packet[:2] + checksum(packet).to_bytes(2, "big") + packet[4:]
            with suppress(OSError):  # such as no endpoint: there is no reply
                found.opened.sendto(packet, (address, 0))
        return sent

    def close(self) -> None:
        """See `Echo.close`."""
        for found in self._sockets.values():
            asyncio.get_running_loop().remove_reader(found.opened.fileno())
            found.opened.close()
        self._sockets.clear()

    def _on_packets(self, found: _Socket, replied: Callable[[int, str, float], None]) -> None:
        for _ in range(_AT_ONCE):
            try:
                packet, ancillary, _, source = found.opened.recvmsg(_LARGEST, 64)
            except OSError:
                return  # no more packets, or an ICMP error
            if found.raw and found.family.family == socket.AF_INET and packet:
                packet = packet[(packet[0] & 15) * 4 :]
            if len(packet) != _ECHO.size:
                continue
            kind, _, _, _, _, nonce = _ECHO.unpack(packet)
            if kind == found.family.reply:
                replied(nonce, source[0].partition("%")[0], _arrival(ancillary))


def _opened(family: _Family) -> _Socket:
    try:
        opened, raw = socket.socket(family.family, socket.SOCK_DGRAM, family.protocol), False
    except OSError:
        opened, raw = socket.socket(family.family, socket.SOCK_RAW, family.protocol), True
        if family.family == socket.AF_INET:
            opened.setsockopt(_SOL_RAW, _FILTER, struct.pack("=I", ~(1 << family.reply) & 0xFFFF_FFFF))
        else:
            dropped = bytearray(b"\xff" * 32)
            place = 4 * (family.reply // 32)
            word = ~(1 << family.reply % 32) & 0xFFFF_FFFF
            dropped[place : place + 4] = struct.pack("=I", word)
            opened.setsockopt(family.protocol, _FILTER_6, bytes(dropped))
    opened.setblocking(False)
    with suppress(OSError):
        opened.setsockopt(socket.SOL_SOCKET, _TIMESTAMP, 1)
    return _Socket(family, opened, raw)


def _arrival(ancillary: list[tuple[int, int, bytes]]) -> float:
    """Return the time at which the kernel received a packet; the present time if it has none."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _TIMESTAMP) and len(data) == 16:
            seconds, nanoseconds = struct.unpack("@qq", data)
            return float(seconds + nanoseconds / 1e9)
    return _CLOCK.now()


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
