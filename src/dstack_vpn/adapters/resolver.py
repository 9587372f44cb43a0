"""Resolution of host names by the system's resolver.

Each lookup has a separate thread. A name server that does not reply can block it for half a minute,
and neither other work in threads nor the end of the process may wait for it.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.paths.destination import Destinations

DEADLINE: float = 20.0
"""Seconds. libc waits five for each silent name server before it tries the next
(resolv.conf(5))."""

THREADS: Final = 64
"""The limit of concurrent lookups. libc may occupy a thread for longer than `DEADLINE`."""

_Found: TypeAlias = list[tuple[Any, ...]]
_ANYWHERE: Final = Destinations()


class SystemResolver:
    """See `ports.Resolver`."""

    def __init__(self, destinations: Destinations = _ANYWHERE) -> None:
        """Accept addresses that ``destinations`` allows. A name's owner chooses them."""
        self._destinations = destinations
        self._room = asyncio.Semaphore(THREADS)

    async def resolve(self, host: str, port: int) -> SocketAddress | None:
        """Return the first usable address in the system's order of preference (RFC 6724)."""
        try:
            async with asyncio.timeout(DEADLINE):
                found = await self._look_up(host, port)
        except (OSError, TimeoutError, UnicodeError):
            return None
        usable = (host for *_, (host, *_) in found if self._destinations.refusal(str(host)) is None)
        return next((SocketAddress(str(host), port) for host in usable), None)

    async def _look_up(self, host: str, port: int) -> _Found:
        """Look the name up in a thread. Its slot is taken until the thread ends."""
        await self._room.acquire()
        lookup = aside(lambda: [*socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)])
        lookup.add_done_callback(self._ended)
        return await asyncio.shield(lookup)

    def _ended(self, lookup: "asyncio.Future[_Found]") -> None:
        if not lookup.cancelled():
            lookup.exception()
        self._room.release()


def name_servers(path: Path = Path("/etc/resolv.conf")) -> list[str]:
    """Return the addresses of the system's name servers (resolv.conf(5))."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    words = (line.split() for line in lines)
    return [found[1].partition("%")[0] for found in words if len(found) > 1 and found[0] == "nameserver"]


def aside(work: Callable[[], _Found]) -> "asyncio.Future[_Found]":
    """Run blocking work in a thread for which the end of the process does not wait."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Found] = loop.create_future()

    def settle(found: _Found | OSError | UnicodeError) -> None:
        if future.done():
            return  # the caller no longer waits
        if isinstance(found, list):
            future.set_result(found)
        else:
            future.set_exception(found)

    def run() -> None:
        found: _Found | OSError | UnicodeError
        try:
            found = work()
        except (OSError, UnicodeError) as error:
            found = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, found)

    threading.Thread(target=run, name="resolver", daemon=True).start()
    return future
