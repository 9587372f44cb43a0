"""The kernel features for a relay, probed once: recvmmsg and sendmmsg, UDP_GRO, UDP_SEGMENT.

Linux has had all of them since 5.0; gVisor and macOS lack some or all. A missing feature costs only
speed: each fast path has a plain alternative.
"""

import ctypes
import os
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Self

SOL_UDP: Final = 17
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
"""UDP_SEGMENT and UDP_GRO are defined in linux/udp.h."""


@dataclass(frozen=True, slots=True)
class Offload:
    """The features that work here."""

    mmsg: bool
    """One system call handles many datagrams."""
    gro: bool
    """Datagrams of equal size from one source arrive as one message."""
    gso: bool
    """One message leaves as datagrams of equal size."""

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of the features that do not work."""
        parts = {"recvmmsg": self.mmsg, "UDP_GRO": self.gro, "UDP_SEGMENT": self.gso}
        return tuple(name for name, works in parts.items() if not works)


NONE: Final = Offload(mmsg=False, gro=False, gso=False)


@cache
def probe() -> Offload:
    """Try each feature on loopback; kernel version numbers are not used."""
    if not _layout_known():
        return NONE
    with suppress(OSError), _Pair() as pair:
        if not (_works(pair.try_recvmmsg) and _works(pair.try_sendmmsg)):
            return NONE
        return Offload(mmsg=True, gro=_works(pair.try_gro), gso=_works(pair.try_gso))
    return NONE


def _layout_known() -> bool:
    """Return True if the kernel's structures have the memory layout that `vectors` uses."""
    return sys.platform == "linux" and sys.byteorder == "little" and ctypes.sizeof(ctypes.c_void_p) == 8


def _works(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except (OSError, AttributeError):
        return False
    return True


class _Pair:
    """Two UDP sockets that are connected to each other."""

    def __enter__(self) -> Self:
        self.a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for end in (self.a, self.b):
            end.bind(("127.0.0.1", 0))
        self.a.connect(self.b.getsockname())
        self.b.connect(self.a.getsockname())
        return self

    def __exit__(self, *_: object) -> None:
        self.a.close()
        self.b.close()

    def try_recvmmsg(self) -> None:
        self._call("recvmmsg", None)

    def try_sendmmsg(self) -> None:
        self._call("sendmmsg")

    def _call(self, name: str, *more: None) -> None:
        """Call with no messages, so that only a missing system call fails."""
        libc = ctypes.CDLL(None, use_errno=True)
        if getattr(libc, name)(self.a.fileno(), None, 0, socket.MSG_DONTWAIT, *more) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def try_gro(self) -> None:
        self.b.setsockopt(SOL_UDP, UDP_GRO, 1)

    def try_gso(self) -> None:
        control = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", 8))]
        self.a.sendmsg([b"12345678", b"12345678", b"1234"], control)
