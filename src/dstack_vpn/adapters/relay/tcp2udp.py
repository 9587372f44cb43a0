"""tcp2udp: accepts TCP or TLS connections, and opens a UDP socket to WireGuard for each."""

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
"""Seconds between checks of the connections."""


class Secure(Protocol):
    """Performs the TLS handshake on an accepted connection."""

    @property
    def problem(self) -> str | None:
        """The problem with the certificate; None if it is valid."""

    async def __call__(self, connection: socket.socket, timeout: float, /) -> Stream:
        """Perform the handshake within ``timeout`` seconds.

        Raises `RelayError`, after closing the connection.
        """


class Connection:
    """A client's connection and its UDP socket."""

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
        sink = Sink(udp, engine.offload, counters, self._uplink.look_again)
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
        """The number of waiting bytes."""
        return self._uplink.queued()

    def tick(self, now: float) -> bool:
        """Update `active_at`; return True if WireGuard has answered since the last call."""
        answered = self._uplink.take_sent()
        if answered or self._downlink.received:
            self.active_at = now
        self._downlink.received = False
        return answered

    def close(self) -> None:
        """Close the stream and the UDP socket."""
        self._downlink.close()
        self._uplink.close()
        self.stream.close()
        self._udp.close()

    def _end(self, reason: str) -> None:
        self._ended(self, reason)


class _Client:
    """A client from its acceptance until its end; it occupies a place."""

    def __init__(self, host: str, accepted: socket.socket, spare: socket.socket) -> None:
        self.host, self.accepted = host, accepted
        self.spare = spare
        """Reserves the descriptor for the UDP socket. Without one, no client is accepted."""
        self.task: asyncio.Task[None] | None = None
        self.connection: Connection | None = None
        """Set after the handshake."""

    def reject(self) -> None:
        """Close the accepted socket and the reserved descriptor."""
        self.accepted.close()
        self.spare.close()


class Tcp2Udp:
    """The tcp2udp service; create it in a running event loop."""

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
        """Bind; raises `RelayError`. ``secure`` performs the handshake if the scheme is tls.

        A client within the VPN's own prefixes (``destinations``) is refused: its tunnel would be
        carried inside itself.
        """
        self.engine, self.counters, self.listen = engine, Counters(), listen
        self._target, self._secure, self._mark = target, secure if listen.tls else None, mark
        self._limits = limits or Limits()
        self._places: Places[_Client] = Places(self._limits.shares())
        self._sources, self._destinations = sources, destinations
        self._clients: dict[Connection, _Client] = {}
        self._rate_limited = RateLimitedLogger(_log)
        self._listener = sockets.listening(listen)
        self._group: asyncio.TaskGroup | None = None
        self._resumption: asyncio.TimerHandle | None = None
        self._foreign: str | None = None
        """The protocol of the last client that ended, if it sent no frame."""
        self._opened = False
        """True after any client that sent a frame has ended."""

    @property
    def problem(self) -> str | None:
        """The reason that clients' datagrams may not pass, as far as this side knows; else None.

        Any client can use any protocol on an open port. Another protocol is therefore a problem
        only if no client has ever sent a frame, or if only a load balancer in front uses it.
        """
        if self._secure is not None and (problem := self._secure.problem):
            return problem
        if any(connection.opened for connection in self._clients):
            return None
        if self._foreign is None or (self._opened and self._foreign != PROXY):
            return None
        if self._foreign == PROXY:
            return f"the last client began with {PROXY}: disable it in the load balancer in front"
        return f"no client has sent a frame; the last one used {self._foreign}, not UDP over TCP"

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
            for connection in self._clients:
                connection.close()

    # -- connections -------------------------------------------------------------------------------

    def _on_connections(self) -> None:
        for _ in turn():
            try:
                self._accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # Descriptors or memory ran out: pause until connections have ended.
                self._rate_limited.warning("relay.accept_failed", problem=error.strerror)
                self._pause()
                return

    def _accept(self) -> None:
        """Accept one connection; raises `OSError`."""
        spare = self._listener.dup()
        try:
            accepted, address = self._listener.accept()
        except OSError:
            spare.close()
            raise
        self._admit(_Client(address[0], accepted, spare))

    def _pause(self) -> None:
        loop, listener = self.engine.loop, self._listener.fileno()
        loop.remove_reader(listener)
        self._resumption = loop.call_later(TICK, loop.add_reader, listener, self._on_connections)

    def _admit(self, client: _Client) -> None:
        if (problem := self._destinations.refusal(client.host)) is not None:
            client.reject()
            self.counters.refused += 1
            self._rate_limited.warning("relay.refused", source=client.host, problem=problem)
            return
        taken = self._places.take(self._sources.of(client.host), client, self.engine.loop.time())
        if taken is None:
            client.reject()
            self.counters.refused += 1
            self._rate_limited.warning("relay.limit", source=client.host, connections=len(self._places))
            return
        if taken.displaced is not None:
            self._displace(taken.displaced)
        assert self._group is not None
        self.counters.accepted += 1
        task = client.task = self._group.create_task(self._begin(client), name=f"connection {client.host}")

        def release(done: "asyncio.Task[None]") -> None:
            client.spare.close()
            if done.cancelled():  # possibly before its first step
                client.accepted.close()

        task.add_done_callback(release)

    def _displace(self, client: _Client) -> None:
        """End a connection whose place another client has taken."""
        self._rate_limited.warning("relay.displaced", source=client.host, connections=len(self._places))
        if client.connection is not None:
            self._ended(client.connection, "displaced by a client within another source's share")
        elif client.task is not None:
            client.task.cancel()

    async def _begin(self, client: _Client) -> None:
        """Perform the handshake, and connect to WireGuard.

        Absorbs `RelayError` and `OSError`: a client's or a name server's failure is logged.
        """
        stream: Stream | None = None
        accepted = client.accepted
        try:
            sockets.tune(accepted, mark=self._mark)
            stream = await self._stream(accepted)
            address = await self._resolved()
            client.spare.close()
            udp = _connected(*address)
        except (RelayError, OSError) as error:
            (accepted if stream is None else stream).close()
            self._places.leave(client)
            self._rate_limited.warning("relay.refused", source=client.host, problem=str(error))
            return
        except asyncio.CancelledError:
            (accepted if stream is None else stream).close()
            raise
        connection = client.connection = Connection(self.engine, stream, udp, self.counters, self._ended)
        self._clients[connection] = client

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
            raise RelayError(f"the target of the datagrams: {error}") from error
        return found[0][0], found[0][4]

    def _ended(self, connection: Connection, reason: str) -> None:
        client = self._clients.pop(connection, None)
        if client is None:
            return
        connection.close()
        self._places.leave(client)
        if not connection.opened:
            self._foreign = connection.foreign
            self._rate_limited.warning("relay.unopened", source=client.host, problem=reason)
        else:
            self._opened, self._foreign = True, None
            _log.debug("relay.closed", source=client.host, reason=reason)

    def _tick(self, now: float) -> None:
        limits = self._limits
        for connection, client in list(self._clients.items()):
            if connection.tick(now):
                self._places.firm(client)
            if not connection.opened and now - connection.began > limits.opening:
                self._ended(connection, f"no complete frame within {limits.opening:.0f} s")
            elif now - connection.active_at > limits.idle:
                self._ended(connection, f"silent for {limits.idle:.0f} s")

    def snapshot(self) -> dict[str, Any]:
        """Return the state for operators, as JSON values.

        A connection counts from its acceptance on, because it occupies a place from then on.
        """
        return {
            "connections": len(self._places),
            "connected": sum(connection.opened for connection in self._clients),
            "queued_bytes": sum(connection.queued for connection in self._clients),
        }


def _connected(family: socket.AddressFamily, address: Any) -> socket.socket:  # noqa: ANN401 - the socket module's own
    """Return a UDP socket connected to WireGuard; raises `OSError`."""
    udp = socket.socket(family, socket.SOCK_DGRAM)
    try:
        udp.setblocking(False)
        udp.connect(address)
    except OSError:
        udp.close()
        raise
    return udp
