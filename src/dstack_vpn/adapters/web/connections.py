"""Limits on connections: their number for each source, and their time without a request.

A connection is closed unless it sends a complete request head within `PATIENCE` of its start, or of
its last answer. The timer stops while a request is being answered.

`core.limits.shares` divides the places. A connection without a place may still request health: it
enters the lobby, which answers one request for an open path and in which the newest connection
displaces the oldest. Health checks therefore work with any number of connections. In the lobby, a
source that exceeds `LOBBY_PACE` is disconnected immediately, which costs least.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, cast

from dstack_vpn.core.limits.pace import Limiter, Pace
from dstack_vpn.core.limits.shares import Kind, Places, Shares, Source, Sources

PATIENCE: Final = 15.0
"""Seconds without a complete request head after which a connection is closed."""
LOBBY_PATIENCE: Final = 2.0
"""The same in the lobby."""
CONNECTIONS: Final = Shares(
    total=512,
    each=100,
    ours=384,
    reserved={Kind.OURS: 96, Kind.MEMBER: 96, Kind.STRANGER: 32},
    stale=2.0,
)
LOBBY_PACE: Final = Pace(rate=10, burst=40, longest=0.0)
"""The rate limit of a source in the lobby. This machine, and a proxy, are exempt."""
LOBBY: Final = Shares(total=24, each=8, reserved={Kind.OURS: 8, Kind.MEMBER: 4, Kind.STRANGER: 4}, stale=0.0)


class Connections:
    """All open connections."""

    def __init__(
        self,
        sources: Sources,
        patience: float = PATIENCE,
        shares: Shares = CONNECTIONS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.patience = patience
        self._sources, self._monotonic = sources, monotonic
        self._places: Places[_Connection] = Places(shares)
        self._lobby: Places[_Connection] = Places(LOBBY)
        self._paces = Limiter(LOBBY_PACE)
        self._open: dict[asyncio.BaseTransport, _Connection] = {}

    def __len__(self) -> int:
        return len(self._places)

    @property
    def refused(self) -> int:
        """The number of connections without a place, including those in the lobby."""
        return self._places.refused

    def guard(self, make: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """Return a factory whose protocols apply the limits to those of ``make``."""
        return lambda: _Connection(make, self)

    def source_of(self, transport: asyncio.BaseTransport | None) -> Source:
        """Return the source at the other end."""
        there, here = (_address(transport, end) for end in ("peername", "sockname"))
        return self._sources.of(there, here)

    def in_lobby(self, transport: asyncio.BaseTransport | None) -> bool:
        """Return True if a connection has no place, and may only request health."""
        return transport is not None and (found := self._open.get(transport)) is not None and found.in_lobby

    def busy(self, transport: asyncio.BaseTransport | None) -> None:
        """Stop the timer, because a request has arrived."""
        if transport is not None and (connection := self._open.get(transport)) is not None:
            connection.rest()
            self._places_of(connection).firm(connection)

    def idle(self, transport: asyncio.BaseTransport | None) -> None:
        """Start the timer for the next request, because the last one was answered."""
        if transport is not None and (connection := self._open.get(transport)) is not None:
            self._places_of(connection).loosen(connection, self._monotonic())
            connection.watch(self._patience_of(connection))

    def admit(self, connection: "_Connection", transport: asyncio.Transport) -> bool:
        """Assign a place to a connection; return False if none is free, even in the lobby."""
        source, now = self.source_of(transport), self._monotonic()
        taken = self._places.take(source, connection, now)
        if taken is None and self._may_wait(source, now):
            connection.in_lobby = True
            taken = self._lobby.take(source, connection, now)
        if taken is None:
            return False
        self._open[transport] = connection
        connection.watch(self._patience_of(connection))
        if taken.displaced is not None:
            taken.displaced.abort()
        return True

    def leave(self, connection: "_Connection", transport: asyncio.BaseTransport) -> None:
        """Release the place of a connection that has ended."""
        self._places_of(connection).leave(connection)
        self._open.pop(transport, None)

    def _may_wait(self, source: Source, now: float) -> bool:
        return source.kind is Kind.OURS or self._paces.take(source, now, shared=False) is not None

    def _places_of(self, connection: "_Connection") -> "Places[_Connection]":
        return self._lobby if connection.in_lobby else self._places

    def _patience_of(self, connection: "_Connection") -> float:
        return min(self.patience, LOBBY_PATIENCE) if connection.in_lobby else self.patience


def _address(transport: asyncio.BaseTransport | None, end: str) -> str | None:
    found = None if transport is None else transport.get_extra_info(end)
    return found[0] if found else None


class _Connection(asyncio.Protocol):
    """Passes all callbacks to a protocol of the web server, created after the admission."""

    def __init__(self, make: Callable[[], asyncio.Protocol], all_: Connections) -> None:
        self._make, self._all = make, all_
        self._inner: asyncio.Protocol | None = None
        self.in_lobby = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._all.admit(self, self._transport):
            self._transport.abort()
            return
        self._inner = self._make()
        self._inner.connection_made(transport)

    def abort(self) -> None:
        """End the connection: it was displaced, or has sent no request in time."""
        if self._transport is not None:
            self._transport.abort()

    def watch(self, patience: float) -> None:
        """Abort the connection unless a request arrives within ``patience`` seconds."""
        self.rest()
        if self._transport is not None and not self._transport.is_closing():
            self._timer = asyncio.get_running_loop().call_later(patience, self.abort)

    def rest(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def data_received(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner is not None else None

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.rest()
        if self._transport is not None:
            self._all.leave(self, self._transport)
        if self._inner is not None:
            self._inner.connection_lost(exc)
