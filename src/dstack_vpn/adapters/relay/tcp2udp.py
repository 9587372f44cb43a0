"""tcp2udp: takes TCP or TLS connections, and gives each a UDP socket of its own towards WireGuard."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol

import structlog

from dstack_vpn.adapters.rate_limited_logger import RateLimitedLogger
from dstack_vpn.adapters.relay import sockets
from dstack_vpn.adapters.relay.counters import Counters
from dstack_vpn.adapters.relay.downlink import Downlink
from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.limits import Limits
from dstack_vpn.adapters.relay.outbox import Sink
from dstack_vpn.adapters.relay.stream import PlainStream, Stream
from dstack_vpn.adapters.relay.uplink import Uplink
from dstack_vpn.adapters.turns import turn
from dstack_vpn.core.limits.shares import Places, Sources
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.paths.destination import ANYWHERE, Destinations
from dstack_vpn.core.paths.relay_url import Listen
from dstack_vpn.core.wireguard.framing import PROXY
from dstack_vpn.errors import RelayError

_log = structlog.get_logger(component="relay")

TICK: Final = 1.0
"""Seconds between looks at the connections."""


class Secure(Protocol):
    """Makes an accepted connection a TLS stream."""

    @property
    def problem(self) -> str | None:
        """The certificate's problem; None if it has none."""

    async def __call__(self, connection: socket.socket, timeout: float, /) -> Stream:
        """Shake hands within so many seconds; raises `RelayError`, and then the connection is closed."""


class Connection:
    """One client."""

    def __init__(
        self,
        engine: Engine,
        stream: Stream,
        udp: socket.socket,
        counters: Counters,
        ended: Callable[["Connection", str], None],
    ) -> None:
        self.stream, self.began, self.active_at = stream, engine.loop.time(), engine.loop.time()
        self._udp = udp
        self._uplink = Uplink(engine, udp, counters, self._end)
        sink = Sink(udp, engine.offload, counters)
        sink.refused = self._uplink.look_again
        self._downlink = Downlink(engine, stream, sink, self._uplink.watch, self._end)
        self._ended = ended
        self._uplink.attach(stream)

    @property
    def opened(self) -> bool:
        """True after the first complete frame."""
        return self._downlink.opened

    @property
    def foreign(self) -> str | None:
        """The other protocol that the client uses, if it was recognised."""
        return self._downlink.foreign

    @property
    def queued(self) -> int:
        """Bytes that wait."""
        return self._uplink.queued()

    def tick(self, now: float) -> bool:
        """Note whether anything happened since the last time; returns whether WireGuard has answered."""
        answered = self._uplink.take_sent()
        if answered or self._downlink.received:
            self.active_at = now
        self._downlink.received = False
        return answered

    def close(self) -> None:
        """Give everything back."""
        self._downlink.close()
        self._uplink.close()
        self.stream.close()
        self._udp.close()

    def _end(self, reason: str) -> None:
        self._ended(self, reason)


class _Guest:
    """A place: a client from the moment that it was accepted until it has gone."""

    def __init__(self, host: str, accepted: socket.socket, spare: socket.socket) -> None:
        self.host, self.accepted = host, accepted
        self.spare = spare
        """Holds the descriptor for its UDP socket: a client that couldn't be given one waits."""
        self.begun: asyncio.Task[None] | None = None
        self.connection: Connection | None = None
        """Once it is open."""

    def turn_away(self) -> None:
        """Close what was accepted, and nothing more."""
        self.accepted.close()
        self.spare.close()


class Tcp2Udp:
    """The service; make it within a running event loop."""

    def __init__(
        self,
        engine: Engine,
        listen: Listen,
        target: tuple[str, int],
        *,
        limits: Limits | None = None,
        secure: Secure | None = None,
        mark: int | None = None,
        sources: Sources = Sources(),  # noqa: B008 - frozen
        destinations: Destinations = ANYWHERE,
    ) -> None:
        """Bind; raises `RelayError`. ``secure`` shakes hands if the scheme is tls.

        A client within the VPN's own prefixes (``destinations``) is turned away: its tunnel would be carried
        in itself.
        """
        self.engine, self.counters, self.listen = engine, Counters(), listen
        self._target, self._secure, self._mark = target, secure if listen.tls else None, mark
        self._limits = limits or Limits()
        self._places: Places[_Guest] = Places(self._limits.shares())
        self._sources, self._destinations = sources, destinations
        self._guests: dict[Connection, _Guest] = {}
        self._rate_limited = RateLimitedLogger(_log)
        self._listener = sockets.listening(listen)
        self._group: asyncio.TaskGroup | None = None
        self._resumption: asyncio.TimerHandle | None = None
        self._foreign: str | None = None
        """The protocol that the last client spoke that never sent a frame; None since one did."""
        self._opened = False
        """True after any client has sent a frame."""

    @property
    def problem(self) -> str | None:
        """The reason why clients' datagrams may not pass, as far as this side knows.

        Strangers can speak what they like to an open port. So another protocol counts only if no client has
        ever got through, or if it is what only a load balancer in front of us says.
        """
        if self._secure is not None and (problem := self._secure.problem):
            return problem
        if self._foreign is None or (self._opened and self._foreign != PROXY):
            return None
        if self._foreign == PROXY:
            return f"the last client began with {PROXY}: have the load balancer in front leave it out"
        return f"no client has got through; the last one spoke {self._foreign}, not UDP over TCP"

    @property
    def address(self) -> SocketAddress:
        """The listening address."""
        return SocketAddress(*self._listener.getsockname()[:2])

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = self.engine.loop
        try:
            async with asyncio.TaskGroup() as self._group:
                loop.add_reader(self._listener.fileno(), self._on_connections)
                while True:
                    await asyncio.sleep(TICK)
                    self._tick(loop.time())
        finally:
            if self._resumption is not None:
                self._resumption.cancel()
            loop.remove_reader(self._listener.fileno())
            self._listener.close()
            for connection in self._guests:
                connection.close()

    # -- connections ----------------------------------------------------------------------------------

    def _on_connections(self) -> None:
        for _ in turn():
            try:
                self._accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of descriptors or memory, until connections end: the rest waits, and so do we.
                self._rate_limited.warning("relay.accept_failed", problem=error.strerror)
                self._pause()
                return

    def _accept(self) -> None:
        """Take one connection; raises `OSError`."""
        spare = self._listener.dup()
        try:
            accepted, address = self._listener.accept()
        except OSError:
            spare.close()
            raise
        self._consider(_Guest(address[0], accepted, spare))

    def _pause(self) -> None:
        loop, listener = self.engine.loop, self._listener.fileno()
        loop.remove_reader(listener)
        self._resumption = loop.call_later(TICK, loop.add_reader, listener, self._on_connections)

    def _consider(self, guest: _Guest) -> None:
        if (problem := self._destinations.refusal(guest.host)) is not None:
            guest.turn_away()
            self.counters.refused += 1
            self._rate_limited.warning("relay.refused", source=guest.host, problem=problem)
            return
        taken = self._places.take(self._sources.of(guest.host), guest, self.engine.loop.time())
        if taken is None:
            guest.turn_away()
            self.counters.refused += 1
            self._rate_limited.warning("relay.limit", source=guest.host, connections=len(self._places))
            return
        if taken.displaced is not None:
            self._displace(taken.displaced)
        assert self._group is not None
        self.counters.accepted += 1
        begun = guest.begun = self._group.create_task(self._begin(guest), name=f"connection {guest.host}")

        def give_back(done: "asyncio.Task[None]") -> None:
            guest.spare.close()
            if done.cancelled():  # perhaps before it could begin
                guest.accepted.close()

        begun.add_done_callback(give_back)

    def _displace(self, guest: _Guest) -> None:
        """End a connection whose place another has."""
        self._rate_limited.warning("relay.displaced", source=guest.host, connections=len(self._places))
        if guest.connection is not None:
            self._ended(guest.connection, "its place is another source's share")
        elif guest.begun is not None:
            guest.begun.cancel()

    async def _begin(self, guest: _Guest) -> None:
        """Shake hands, and connect to WireGuard. Absorbs what a client or a name server can do wrong."""
        stream: Stream | None = None
        accepted = guest.accepted
        try:
            sockets.tune(accepted, mark=self._mark)
            stream = await self._stream(accepted)
            address = await self._resolved()
            guest.spare.close()
            udp = _connected(*address)
        except (RelayError, OSError) as error:
            (accepted if stream is None else stream).close()
            self._places.leave(guest)
            self._rate_limited.warning("relay.refused", source=guest.host, problem=str(error))
            return
        except asyncio.CancelledError:
            (accepted if stream is None else stream).close()
            raise
        connection = guest.connection = Connection(self.engine, stream, udp, self.counters, self._ended)
        self._guests[connection] = guest

    async def _stream(self, accepted: socket.socket) -> Stream:
        accepted.setblocking(False)
        if self._secure is None:
            return PlainStream(accepted)
        try:
            return await self._secure(accepted, self._limits.opening)
        except RelayError:
            self.counters.handshake_failures += 1
            raise

    async def _resolved(self) -> tuple[socket.AddressFamily, Any]:
        """Return WireGuard's address; raises `RelayError`."""
        host, port = self._target
        try:
            found = await self.engine.names.find(host, port, socket.SOCK_DGRAM)
        except RelayError as error:
            raise RelayError(f"{error}: datagrams should go there") from error
        return found[0][0], found[0][4]

    def _ended(self, connection: Connection, reason: str) -> None:
        guest = self._guests.pop(connection, None)
        if guest is None:
            return
        connection.close()
        self._places.leave(guest)
        if not connection.opened:
            self._foreign = connection.foreign
            self._rate_limited.warning("relay.unopened", source=guest.host, problem=reason)
        else:
            _log.debug("relay.closed", source=guest.host, reason=reason)

    def _tick(self, now: float) -> None:
        limits = self._limits
        for connection, guest in list(self._guests.items()):
            if connection.tick(now):
                self._places.firm(guest)
            if connection.opened:
                self._opened, self._foreign = True, None
            if not connection.opened and now - connection.began > limits.opening:
                self._ended(connection, f"no whole frame came within {limits.opening:.0f} s")
            elif now - connection.active_at > limits.idle:
                self._ended(connection, f"silent for {limits.idle:.0f} s")

    def snapshot(self) -> dict[str, Any]:
        """Return the state for operators, as JSON values."""
        return {
            "connections": len(self._guests),
            "connected": sum(connection.opened for connection in self._guests),
            "queued_bytes": sum(connection.queued for connection in self._guests),
        }


def _connected(family: socket.AddressFamily, address: Any) -> socket.socket:  # noqa: ANN401 - the socket module's own
    """A UDP socket that is connected to WireGuard; raises `OSError`."""
    udp = socket.socket(family, socket.SOCK_DGRAM)
    try:
        udp.setblocking(False)
        udp.connect(address)
    except OSError:
        udp.close()
        raise
    return udp
