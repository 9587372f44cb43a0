"""How long a socket may keep the event loop, so that others have their turn.

Strangers decide how much there is to read and to accept, and a datagram takes many times as long if other
programs use the processors. So a turn has a bound in time and not a number of datagrams.

asyncio accepts as many connections in a row as its ``backlog`` says, and the kernel keeps as many waiting.
The former should be few. The latter should be many, because a connection for which there is no room tries
again only after a second. `accepting` sets the latter.
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
"""Connections that wait to be accepted; the kernel's net.core.somaxconn may bound it further."""


def turn(seconds: float = TURN) -> Iterator[None]:
    """Yield once, and again until the turn is over."""
    ends = time.monotonic() + seconds
    yield
    while time.monotonic() < ends:
        yield


async def accepting(start: Awaitable[asyncio.Server], listening: socket.socket) -> asyncio.Server:
    """Start a server that was given a backlog of `AT_ONCE`, and let more connections wait for it."""
    server = await start
    listening.listen(PENDING)
    return server
