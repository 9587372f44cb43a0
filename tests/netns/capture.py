"""A capture of the packets that an interface sees, by a raw socket."""

import ipaddress
import socket
import struct
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, NamedTuple, Self

from tests.netns_support import Namespace

_ETH_P_ALL: Final = 3
_ND: Final = frozenset({133, 134, 135, 136, 143})
"""ICMPv6 of neighbour discovery, and reports of multicast groups."""
_RECEIVE: Final = 65_536


class Seen(NamedTuple):
    """A packet."""

    source: str
    destination: str
    protocol: int
    port: int
    """The destination port of TCP and UDP; else 0."""
    source_port: int = 0


@dataclass
class Capture:
    """All IP packets of an interface; use it as a context manager.

    ARP and neighbour discovery, without which no link works, are left out.
    """

    namespace: Namespace
    interface: str
    seen: list[Seen] = field(default_factory=list)
    _socket: socket.socket = field(init=False)
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> Self:
        with self.namespace.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            self._socket.bind((self.interface, _ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.settimeout(0.2)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()
        self._thread.join(5)
        self._socket.close()

    def _run(self) -> None:
        while not self._ends.is_set():
            try:
                frame = self._socket.recv(_RECEIVE)
            except TimeoutError:
                continue
            if (packet := parse(frame)) is not None and self.wants(packet):
                self.seen.append(packet)

    def wants(self, packet: Seen) -> bool:
        """Return whether a packet is kept."""
        return True

    def others(self, *allowed: str, by: str) -> list[Seen]:
        """Return the packets that one host sent to destinations other than these."""
        return [
            each for each in list(self.seen) if each.source in by.split() and each.destination not in allowed
        ]


def parse(frame: bytes) -> Seen | None:
    """Return the packet of an Ethernet frame; None for one that is not counted."""
    kind = int.from_bytes(frame[12:14])
    data = frame[14:]
    if kind == 0x0800:
        head = (data[0] & 15) * 4
        source, destination = ipaddress.ip_address(data[12:16]), ipaddress.ip_address(data[16:20])
        return Seen(str(source), str(destination), data[9], *_ports(data[9], data[head:]))
    if kind == 0x86DD:
        protocol, rest = data[6], data[40:]
        if protocol == 0:  # hop-by-hop options, before reports of multicast groups
            protocol, rest = rest[0], rest[8 * (rest[1] + 1) :]
        if protocol == socket.IPPROTO_ICMPV6 and rest[0] in _ND:
            return None
        source6, destination6 = ipaddress.ip_address(data[8:24]), ipaddress.ip_address(data[24:40])
        return Seen(str(source6), str(destination6), protocol, *_ports(protocol, rest))
    return None


def _ports(protocol: int, data: bytes) -> tuple[int, int]:
    if protocol not in {socket.IPPROTO_TCP, socket.IPPROTO_UDP} or len(data) < 4:
        return 0, 0
    source, destination = struct.unpack_from("!HH", data)
    return destination, source
