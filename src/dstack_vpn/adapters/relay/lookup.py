"""Names of upstreams, proxies and targets to addresses, with a deadline of their own.

A silent name server costs libc five seconds or more before it asks the next one (resolv.conf(5)). That time
is not taken from the time for connecting. Each lookup goes on in the background; meanwhile the last good
addresses are used. A user that asks for the same name at the same time shares one lookup.

Members choose the names of their relays. So each relay has a share: a member's names, however many never
resolve, hold up no other member's. A lookup that nothing waits for any more is not begun.
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
"""Seconds for a name without a known address: what libc takes if two of three name servers are silent."""
FRESH: Final = 1.0
"""Seconds that a lookup may take before the last good addresses are used."""
REMEMBERED: Final = 4096
"""Names whose last addresses are kept."""
AT_ONCE: Final = 64
"""Lookups under way, each of which has a thread."""
SHARE: Final = 8
"""Of these, the lookups of one user: two for each relay that an endpoint may name."""

Found: TypeAlias = list[tuple[Any, ...]]
"""As `socket.getaddrinfo` returns it."""
_Key: TypeAlias = tuple[str, int, socket.SocketKind]


class Share:
    """One user's part of the room for lookups."""

    def __init__(self, room: int = SHARE) -> None:
        self.room = asyncio.Semaphore(room)
        self.running: dict[_Key, asyncio.Future[Found]] = {}
        self.waiting: Counter[_Key] = Counter()
        """The number of waiters for each name."""


def _by_system(host: str, port: int, kind: socket.SocketKind) -> Found:
    return [*socket.getaddrinfo(host, port, type=kind)]


class NameCache:
    """Looks names up, for all relays of an event loop."""

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
        """Return the addresses of a name, within a user's share of the room; raises `RelayError`."""
        if _is_address(host):
            return _by_system(host, port, kind)
        key = (host, port, kind)
        known, share = self._known.get(key), share or self._common
        lookup = share.running.get(key) or self._begin(key, share)
        share.waiting[key] += 1
        try:
            async with asyncio.timeout(DEADLINE if known is None else FRESH):
                return await asyncio.shield(lookup)
        except (OSError, UnicodeError) as error:  # a timeout among them
            if known is not None:
                return known
            raise RelayError(f"can't resolve {host}: {_explained(error)}") from error
        finally:
            share.waiting[key] -= 1

    def _begin(self, key: _Key, share: Share) -> "asyncio.Future[Found]":
        lookup = asyncio.ensure_future(self._look_up(key, share))  # noqa: TID251 - shared by who waits
        share.running[key] = lookup
        lookup.add_done_callback(lambda done: self._ended(key, share, done))
        return lookup

    async def _look_up(self, key: _Key, share: Share) -> Found:
        async with share.room, self._room:
            if not share.waiting[key] and key not in self._known:
                raise OSError("nothing waits for it any more")
            return await aside(lambda: self._find(*key))

    def _ended(self, key: _Key, share: Share, lookup: "asyncio.Future[Found]") -> None:
        del share.running[key], share.waiting[key]
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
