"""State shared by all connections of an event loop: the kernel's capabilities, and the buffers.

Callbacks of one loop never run at the same time, so a buffer is in use only within one of them.
"""

import asyncio
import resource
import socket
from contextlib import suppress
from typing import Final

import structlog

from dstack_vpn.adapters.binding import widen
from dstack_vpn.adapters.relay.inbox import Inbox
from dstack_vpn.adapters.relay.lookup import NameCache
from dstack_vpn.adapters.relay.offload import NONE, Offload, probe
from dstack_vpn.adapters.relay.outbox import Outbox
from dstack_vpn.adapters.uplink import look_up_by

_log = structlog.get_logger(component="relay")

UDP_BUFFER: Final = 4 << 20
"""Bytes that a UDP socket may queue: several milliseconds of traffic at several Gbit/s."""


def raise_descriptor_limit() -> int:
    """Raise the limit of open descriptors to the maximum, and return it.

    The usual limit of 1,024 allows 500 connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


class Engine:
    """The shared state; create it once in an event loop, before the first connection."""

    def __init__(self, *, offload: bool = True, mark: int | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.descriptors = raise_descriptor_limit()
        """The number of files and sockets that this process may have open."""
        self.offload: Offload = probe() if offload else NONE
        self.names = NameCache(look_up_by(mark))
        self.inbox = Inbox()
        self.outbox = Outbox(self.offload)
        if missing := self.offload.missing:
            _log.warning("relay.slow", missing=missing, reason="this kernel lacks it, or RELAY_OFFLOAD=0")

    def widen(self, udp: socket.socket) -> None:
        """Give a UDP socket large buffers, as far as the system allows."""
        widen(udp, UDP_BUFFER)
