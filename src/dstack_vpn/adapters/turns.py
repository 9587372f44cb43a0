"""Limits on the time for which a socket may occupy the event loop.

Remote hosts decide how many datagrams and connections arrive, and a datagram takes many times as
long if other programs use the processors. Therefore a turn is limited by time, not by a number of
datagrams.

asyncio accepts as many connections in a row as its ``backlog``, and the kernel queues as many. The
former should be few. The latter should be many, because a connection that finds the queue full is
retried only after a second. `accepting` sets the latter.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Iterator
from typing import Final

TURN: Final = 0.005
"""Seconds."""
AT_ONCE: Final = 32
"""Connections that asyncio accepts in a turn."""
PENDING: Final = 1024
"""Connections that wait to be accepted. The kernel's net.core.somaxconn may limit it further."""


def turn(seconds: float = TURN) -> Iterator[None]:
    """Yield once, and again until the time of the turn is over."""
    ends = time.monotonic() + seconds
    yield
    while time.monotonic() < ends:
        yield


async def accepting(start: Awaitable[asyncio.Server], listening: socket.socket) -> asyncio.Server:
    """Start a server that has a backlog of `AT_ONCE`, and set the kernel's queue to `PENDING`."""
    server = await start
    listening.listen(PENDING)
    return server
