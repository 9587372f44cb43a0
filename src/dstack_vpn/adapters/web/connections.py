"""Connections within bounds: how many there are, and how long one may take to ask.

A connection is closed that has not sent a whole request head within `PATIENCE` of its beginning, or of its
last answer. While a request is being answered, the clock stands still.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

from dstack_vpn.adapters.web.client import Address, parse_address, same_client
from dstack_vpn.errors import FormatError

PATIENCE: Final = 15.0
"""Seconds."""
CONNECTIONS: Final = 512
SHARE: Final = 384
"""Of these, from all that are no trusted proxy, and from one proxy: neither can take every place."""
PER_CLIENT: Final = 100
"""Of these, from one client."""


@dataclass(slots=True)
class Connections:
    """All that are open."""

    patience: float = PATIENCE
    most: int = CONNECTIONS
    per_client: int = PER_CLIENT
    share: int = SHARE
    name_of: Callable[[Address], str] = same_client
    """What an address counts as."""
    trusts: Callable[[Address], bool] = field(default=lambda address: False)
    """Whether an address is a trusted proxy's, which asks for all of its clients."""
    refused: int = 0
    _open: "dict[asyncio.BaseTransport, _Connection]" = field(default_factory=dict)
    _clients: Counter[str] = field(default_factory=Counter)
    _strangers: int = 0

    def __len__(self) -> int:
        return len(self._open)

    def guard(self, make: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """The protocols that ``make`` makes, within bounds."""
        return lambda: _Connection(make(), self)

    def busy(self, transport: asyncio.BaseTransport | None) -> None:
        """A request has come: it takes the time it takes."""
        if transport is not None and (connection := self._open.get(transport)) is not None:
            connection.rest()

    def idle(self, transport: asyncio.BaseTransport | None) -> None:
        """It was answered: the next one has to come soon."""
        if transport is not None and (connection := self._open.get(transport)) is not None:
            connection.watch()

    def admit(self, connection: "_Connection", client: str, *, is_proxy: bool) -> bool:
        """Take a connection in; False: there is no room."""
        limit = self.share if is_proxy else self.per_client
        full = len(self._open) >= self.most or (not is_proxy and self._strangers >= self.share)
        if full or self._clients[client] >= limit:
            self.refused += 1
            return False
        self._strangers += not is_proxy
        assert connection.transport is not None
        self._open[connection.transport] = connection
        self._clients[client] += 1
        return True

    def leave(self, connection: "_Connection", client: str) -> None:
        """A connection that was taken in has ended."""
        if connection.transport is not None and self._open.pop(connection.transport, None) is not None:
            self._strangers -= not connection.is_proxy
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]


class _Connection(asyncio.Protocol):
    """Hands everything on to a protocol of the web server's, if it is let in."""

    def __init__(self, inner: asyncio.Protocol, all_: Connections) -> None:
        self._inner, self._all = inner, all_
        self._client, self.is_proxy = "", False
        self._admitted = False
        self._timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        try:
            address = parse_address(peer[0])
            self._client, self.is_proxy = self._all.name_of(address), self._all.trusts(address)
        except (TypeError, FormatError):
            self._client = "?"
        if not self._all.admit(self, self._client, is_proxy=self.is_proxy):
            self.transport.abort()
            return
        self._admitted = True
        self._inner.connection_made(transport)
        self.watch()

    def watch(self) -> None:
        """Wait for a request, but not for ever."""
        self.rest()
        if self.transport is not None and not self.transport.is_closing():
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._all.patience, self.transport.abort)

    def rest(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def data_received(self, data: bytes) -> None:
        if self._admitted:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._admitted else None

    def pause_writing(self) -> None:
        if self._admitted:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._admitted:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.rest()
        self._all.leave(self, self._client)
        if self._admitted:
            self._inner.connection_lost(exc)
