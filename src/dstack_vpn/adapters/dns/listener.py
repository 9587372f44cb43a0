"""One address of the DNS responder, over UDP and TCP.

An answer comes from the address that was asked, also if the socket is on all of them.
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
from dstack_vpn.adapters.dns.shun import Shunned
from dstack_vpn.adapters.turns import AT_ONCE, accepting, turn
from dstack_vpn.core.limits.shares import Source
from dstack_vpn.core.model import SocketAddress

if TYPE_CHECKING:
    from dstack_vpn.adapters.dns.messages import Query

IDLE: Final = 5.0
"""Seconds that a TCP client may take for a question."""
BUFFER: Final = 1 << 20
"""Bytes of datagrams that may wait: all sources share it, so a burst of one must fit beside the others'."""
SOURCES: Final = 4096
"""Addresses of which is remembered what they are."""


class Server(Protocol):
    """What answers the questions; `adapters.dns.server.DnsServer` implements it."""

    desk: Desk
    loaded: bool
    """Whether the library that reads messages has been imported."""

    async def load(self) -> None:
        """Import that library."""

    def refused(self, host: str) -> None:
        """Take note of a question from an address that is not answered."""

    def respond(self, data: bytes, *, over_udp: bool) -> "bytes | Query | None":
        """Return the answer at once, a query that is to be forwarded, or None for no answer."""

    async def forward(self, query: "Query", *, over_udp: bool) -> bytes:
        """Return a resolver's answer."""

    def in_background(self, work: Coroutine[None, None, None]) -> None:
        """Carry work out aside."""


class Listener:
    """One address, over UDP and TCP."""

    def __init__(self, server: Server, address: SocketAddress, allows: Callable[[str], bool]) -> None:
        self._server, self._address = server, address
        # Most of a flood's cost would be parsing addresses.
        self._allows = lru_cache(maxsize=SOURCES)(allows)
        self._source = lru_cache(maxsize=SOURCES)(server.desk.sources.of)
        self._udp: socket.socket | None = None
        self._shunned: Shunned | None = None
        self._tcp: asyncio.Server | None = None

    async def open(self) -> None:
        """Bind; raises `OSError`."""
        udp = self._udp = bound(self._address, socket.SOCK_DGRAM)
        udp.setblocking(False)
        ask_for_destination(udp)
        widen(udp, BUFFER)
        self._shunned = Shunned(udp)
        tcp = bound(self._address, socket.SOCK_STREAM)
        start = asyncio.start_server(self._serve, sock=tcp, limit=1 << 16, backlog=AT_ONCE)
        self._tcp = await accepting(start, tcp)
        asyncio.get_running_loop().add_reader(udp.fileno(), self._on_datagrams)

    def close(self) -> None:
        """Give both sockets back."""
        if self._shunned is not None:
            self._shunned.close()
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
                data, client, asked = receive(self._udp)
            except OSError:
                return  # nothing more there, or word that a client has gone before its answer came
            if not self._take(data, _Client(client, asked)) and self._shunned is not None:
                self._shunned.refused(plain(client[0]))

    def _take(self, data: bytes, client: "_Client") -> bool:
        """Answer now or later; False: that source is not answered."""
        host = plain(client.address[0])
        if not self._allows(host):
            self._server.refused(host)
            return False
        source = self._source(host, client.asked)
        if not self._server.desk.hears(source):
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
            self._later(source, self._pass_on(answer, client))

    def _later(self, source: Source, work: Coroutine[None, None, None]) -> None:
        """Do what takes a while, if that source has not too much of it under way."""
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

    async def _pass_on(self, query: "Query", client: "_Client") -> None:
        self._send(await self._server.forward(query, over_udp=True), client)

    def _send(self, answer: bytes, client: "_Client") -> None:
        if self._udp is not None:
            with suppress(OSError):
                send_from(self._udp, answer, client.asked, client.address)

    # -- TCP ---------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client's questions. Absorbs whatever ends the connection."""
        host, here = (plain(writer.get_extra_info(end)[0]) for end in ("peername", "sockname"))
        client = TcpClient(reader, writer, self._server.desk.sources.of(host, here))
        try:
            if not self._allows(host):
                return self._server.refused(host)
            with self._server.desk.seat(client) as admitted, suppress(OSError, EOFError, TimeoutError):
                if admitted:
                    await self._converse(client)
        finally:
            writer.close()

    async def _converse(self, client: TcpClient) -> None:
        reader, writer, desk = client.reader, client.writer, self._server.desk
        while True:
            async with asyncio.timeout(IDLE):
                size = int.from_bytes(await reader.readexactly(2), "big")
                data = await reader.readexactly(size)
            if not desk.hears(client.source):
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
    """Return the client's address, and our address that it asked."""

    address: Any
    """As the socket module has it."""
    asked: str


@lru_cache(maxsize=SOURCES)
def plain(host: str) -> str:
    """Return an address without its scope, and one of IPv4 as such: a socket for both kinds maps it."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


def is_private(host: str) -> bool:
    """Return whether a source is of a private network, or this machine."""
    address = ipaddress.ip_address(host)
    return address.is_private or address.is_loopback or address.is_link_local
