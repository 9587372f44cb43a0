"""Name resolution for upstreams, proxies and targets, with a separate deadline.

If a name server does not answer, libc takes five seconds or more before it asks the next one
(resolv.conf(5)). That time does not count towards the timeout for connecting. A lookup continues in
the background; until it ends, the last successful addresses are used. Concurrent requests for the
same name in one share use one lookup.

Members choose the names of their relays. Each relay therefore has a share of the lookups: names
that never resolve delay no other member's lookups. A lookup without waiters is not started.
"""

import asyncio
import ipaddress
import socket
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias

from dstack_vpn.adapters.resolver import aside
from dstack_vpn.errors import RelayError

DEADLINE: Final = 30.0
"""Seconds for a name without a known address: libc's time if two of three name servers fail."""
FRESH: Final = 1.0
"""Seconds that a lookup may take before the last successful addresses are used."""
REMEMBERED: Final = 4096
"""The number of names whose last addresses are kept."""
AT_ONCE: Final = 64
"""The maximum number of concurrent lookups, each of which occupies a thread."""
SHARE: Final = 8
"""The maximum for one relay: two for each upstream that an endpoint may name."""

Found: TypeAlias = list[tuple[Any, ...]]
"""The return type of `socket.getaddrinfo`."""
_Key: TypeAlias = tuple[str, int, socket.SocketKind]


class Share:
    """One relay's share of the concurrent lookups."""

    def __init__(self, room: int = SHARE) -> None:
        self.room = asyncio.Semaphore(room)
        self.running: dict[_Key, asyncio.Future[Found]] = {}
        self.waiting: Counter[_Key] = Counter()
        """The number of waiters for each name."""


def _by_system(host: str, port: int, kind: socket.SocketKind) -> Found:
    return [*socket.getaddrinfo(host, port, type=kind)]


class NameCache:
    """Resolves names for all relays of an event loop, and remembers the results."""

    def __init__(self, find: Callable[[str, int, socket.SocketKind], Found] = _by_system) -> None:
        """``find`` may block; it raises `OSError`."""
        self._find = find
        self._common = Share(AT_ONCE)
        self._known: OrderedDict[_Key, Found] = OrderedDict()
        self._room = asyncio.Semaphore(AT_ONCE)

    async def find(
        self,
        host: str,
        port: int,
        kind: socket.SocketKind = socket.SOCK_STREAM,
        share: Share | None = None,
    ) -> Found:
        """Return the addresses of a name, within the share; raises `RelayError`."""
        if _is_address(host):
            return _by_system(host, port, kind)
        key = (host, port, kind)
        known, share = self._known.get(key), share or self._common
        lookup = share.running.get(key) or self._begin(key, share)
        share.waiting[key] += 1
        try:
            async with asyncio.timeout(DEADLINE if known is None else FRESH):
                return await asyncio.shield(lookup)
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            if known is not None:
                return known
            raise RelayError(f"can't resolve {host}: {_explained(error)}") from error
        finally:
            share.waiting[key] -= 1
            if not share.waiting[key]:
                del share.waiting[key]

    def _begin(self, key: _Key, share: Share) -> "asyncio.Future[Found]":
        lookup = asyncio.ensure_future(self._look_up(key, share))  # noqa: TID251 - shared by several waiters
        share.running[key] = lookup
        lookup.add_done_callback(lambda done: self._ended(key, share, done))
        return lookup

    async def _look_up(self, key: _Key, share: Share) -> Found:
        async with share.room, self._room:
            if not share.waiting[key] and key not in self._known:
                raise OSError("the lookup has no waiters left")
            return await aside(lambda: self._find(*key))

    def _ended(self, key: _Key, share: Share, lookup: "asyncio.Future[Found]") -> None:
        del share.running[key]  # the waiters are notified after this, and count themselves out
        with suppress(asyncio.CancelledError, OSError, UnicodeError):
            self._known[key] = lookup.result()
            self._known.move_to_end(key)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _explained(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no name server answered within {DEADLINE:.0f} s"
    return getattr(error, "strerror", None) or str(error)
