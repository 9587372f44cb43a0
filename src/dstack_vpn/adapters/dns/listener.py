"""One address of the DNS responder, over UDP and TCP.

A reply is sent from the address that received the query, also if the socket is bound to all
addresses.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from dstack_vpn.adapters.binding import bound, widen
from dstack_vpn.adapters.destination import ask_for_destination, receive, send_from
from dstack_vpn.adapters.dns.desk import Desk, TcpClient
from dstack_vpn.adapters.dns.source_filter import SourceFilter
from dstack_vpn.adapters.turns import AT_ONCE, accepting, turn
from dstack_vpn.core.limits.shares import Source
from dstack_vpn.core.model import SocketAddress

if TYPE_CHECKING:
    from dstack_vpn.adapters.dns.messages import Query

IDLE: Final = 5.0
"""Seconds for a TCP client to send a query."""
BUFFER: Final = 1 << 20
"""Bytes of the receive buffer. All sources share it, so it must hold a burst beside others'
queries."""
SOURCES: Final = 4096
"""The limit of addresses whose classification is cached."""


class Server(Protocol):
    """The server that replies to queries, such as `adapters.dns.server.DnsServer`."""

    desk: Desk
    loaded: bool
    """True if the library that parses messages was imported."""

    async def load(self) -> None:
        """Import that library."""

    def refused(self, host: str) -> None:
        """Record a query from a source that is not allowed."""

    def respond(self, data: bytes, *, over_udp: bool) -> "bytes | Query | None":
        """Return the reply, a query to forward, or None for no reply."""

    async def forward(self, query: "Query", *, over_udp: bool) -> bytes:
        """Return a resolver's reply."""

    def in_background(self, work: Coroutine[None, None, None]) -> None:
        """Run work in a task."""


class Listener:
    """One address, over UDP and TCP."""

    def __init__(self, server: Server, address: SocketAddress, allows: Callable[[str], bool]) -> None:
        self._server, self._address = server, address
        # Parsing addresses would be most of the cost of a flood.
        self._allows = lru_cache(maxsize=SOURCES)(allows)
        self._source = lru_cache(maxsize=SOURCES)(server.desk.sources.of)
        self._udp: socket.socket | None = None
        self._source_filter: SourceFilter | None = None
        self._tcp: asyncio.Server | None = None

    async def open(self) -> None:
        """Bind. Raises `OSError`."""
        udp = self._udp = bound(self._address, socket.SOCK_DGRAM)
        udp.setblocking(False)
        ask_for_destination(udp)
        widen(udp, BUFFER)
        self._source_filter = SourceFilter(udp)
        tcp = bound(self._address, socket.SOCK_STREAM)
        start = asyncio.start_server(self._serve, sock=tcp, limit=1 << 16, backlog=AT_ONCE)
        self._tcp = await accepting(start, tcp)
        asyncio.get_running_loop().add_reader(udp.fileno(), self._on_datagrams)

    def close(self) -> None:
        """Close both sockets."""
        if self._source_filter is not None:
            self._source_filter.close()
        if self._udp is not None:
            asyncio.get_running_loop().remove_reader(self._udp.fileno())
            self._udp.close()
            self._udp = None
        if self._tcp is not None:
            self._tcp.close()

    # -- UDP ---------------------------------------------------------------------------------------

    def _on_datagrams(self) -> None:
        for _ in turn():
            if self._udp is None:
                return
            try:
                data, client, destination = receive(self._udp)
            except OSError:
                return  # no more data, or an ICMP error: a client has gone before its reply came
            if not self._take(data, _Client(client, destination)) and self._source_filter is not None:
                self._source_filter.refused(plain(client[0]))

    def _take(self, data: bytes, client: "_Client") -> bool:
        """Reply now or later. Return False if the source is refused."""
        host = plain(client.address[0])
        if not self._allows(host):
            self._server.refused(host)
            return False
        source = self._source(host, client.destination)
        if not self._server.desk.admits(source):
            return False
        if self._server.loaded:
            self._answer(data, client, source)
        else:
            self._later(source, self._begin(data, client, source))
        return True

    def _answer(self, data: bytes, client: "_Client", source: Source) -> None:
        answer = self._server.respond(data, over_udp=True)
        if isinstance(answer, bytes):
            self._send(answer, client)
        elif answer is not None:
            self._later(source, self._forward(answer, client))

    def _later(self, source: Source, work: Coroutine[None, None, None]) -> None:
        """Run work in a task, within the limit of the source."""
        self._server.in_background(self._within_share(source, work))

    async def _within_share(self, source: Source, work: Coroutine[None, None, None]) -> None:
        async with self._server.desk.question(source) as admitted:
            if admitted:
                await work
            else:
                work.close()

    async def _begin(self, data: bytes, client: "_Client", source: Source) -> None:
        await self._server.load()
        self._answer(data, client, source)

    async def _forward(self, query: "Query", client: "_Client") -> None:
        self._send(await self._server.forward(query, over_udp=True), client)

    def _send(self, answer: bytes, client: "_Client") -> None:
        if self._udp is not None:
            with suppress(OSError):
                send_from(self._udp, answer, client.destination, client.address)

    # -- TCP ---------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Reply to one client's queries. Absorbs the errors that end the connection."""
        host, here = (plain(writer.get_extra_info(end)[0]) for end in ("peername", "sockname"))
        client = TcpClient(reader, writer, self._server.desk.sources.of(host, here))
        try:
            if not self._allows(host):
                return self._server.refused(host)
            with self._server.desk.connection(client) as admitted, suppress(OSError, EOFError, TimeoutError):
                if admitted:
                    await self._handle_queries(client)
        finally:
            writer.close()

    async def _handle_queries(self, client: TcpClient) -> None:
        reader, writer, desk = client.reader, client.writer, self._server.desk
        while True:
            async with asyncio.timeout(IDLE):
                size = int.from_bytes(await reader.readexactly(2), "big")
                data = await reader.readexactly(size)
            if not desk.admits(client.source):
                return
            with desk.serving(client):
                answer = await self._reply(data, client.source)
            if answer is None:
                return
            writer.write(len(answer).to_bytes(2, "big") + answer)
            async with asyncio.timeout(IDLE):
                await writer.drain()

    async def _reply(self, data: bytes, source: Source) -> bytes | None:
        await self._server.load()
        answer = self._server.respond(data, over_udp=False)
        if answer is None or isinstance(answer, bytes):
            return answer
        async with self._server.desk.question(source) as admitted:
            return await self._server.forward(answer, over_udp=False) if admitted else None


class _Client(NamedTuple):
    """The client's address, and our address to which its query was sent."""

    address: Any
    """In the form of the socket module."""
    destination: str


@lru_cache(maxsize=SOURCES)
def plain(host: str) -> str:
    """Return an address without its scope, with a mapped IPv4 address as plain IPv4.

    A socket for both families maps IPv4 addresses.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


def is_private(host: str) -> bool:
    """Return True if a source is in a private network or is this machine."""
    address = ipaddress.ip_address(host)
    return address.is_private or address.is_loopback or address.is_link_local
