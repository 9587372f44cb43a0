"""One address of the DNS responder, over UDP and TCP.

An answer comes from the address that was asked, also where the socket is on all of them.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dstack_vpn.adapters.binding import bound
from dstack_vpn.adapters.destination import ask_for_destination, receive, send_from
from dstack_vpn.core.model import SocketAddress

if TYPE_CHECKING:
    from dstack_vpn.adapters.dns.messages import Query
    from dstack_vpn.adapters.dns.server import DnsServer

CONNECTIONS: Final = 16
"""TCP clients at once."""
IDLE: Final = 5.0
"""Seconds that a TCP client may take for a question."""
FORWARDED: Final = 64
"""Questions over UDP that wait for another server's answer at once."""
BATCH: Final = 64
"""Datagrams that are read before others have their turn."""


class Listener:
    """One address, over UDP and TCP."""

    def __init__(self, server: "DnsServer", address: SocketAddress, allows: Callable[[str], bool]) -> None:
        self._server, self._address, self._allows = server, address, allows
        self._udp: socket.socket | None = None
        self._tcp: asyncio.Server | None = None
        self._clients = 0
        self._waiting = 0

    async def open(self) -> None:
        """Bind; raises `OSError`."""
        udp = self._udp = bound(self._address, socket.SOCK_DGRAM)
        udp.setblocking(False)
        ask_for_destination(udp)
        tcp = bound(self._address, socket.SOCK_STREAM)
        self._tcp = await asyncio.start_server(self._serve, sock=tcp, limit=1 << 16, backlog=CONNECTIONS)
        asyncio.get_running_loop().add_reader(udp.fileno(), self._on_datagrams)

    def close(self) -> None:
        """Give both sockets back."""
        if self._udp is not None:
            asyncio.get_running_loop().remove_reader(self._udp.fileno())
            self._udp.close()
            self._udp = None
        if self._tcp is not None:
            self._tcp.close()

    # -- UDP ------------------------------------------------------------------------------------------

    def _on_datagrams(self) -> None:
        for _ in range(BATCH):
            if self._udp is None:
                return
            try:
                data, client, asked = receive(self._udp)
            except OSError:
                return  # nothing more there, or word that a client has gone before its answer came
            self._take(data, _Client(client, asked))

    def _take(self, data: bytes, client: "_Client") -> None:
        host = plain(client.address[0])
        if not self._allows(host):
            return self._server.refused(host)
        if not self._server.loaded:
            return self._later(self._begin(data, client))
        return self._answer(data, client)

    def _answer(self, data: bytes, client: "_Client") -> None:
        answer = self._server.respond(data, over_udp=True)
        if isinstance(answer, bytes):
            self._send(answer, client)
        elif answer is not None:
            self._later(self._pass_on(answer, client))

    def _later(self, work: Coroutine[None, None, None]) -> None:
        """Do what takes a while, if not too much of it is under way."""
        if self._waiting < FORWARDED:
            self._waiting += 1
            self._server.in_background(self._counted(work))
        else:
            work.close()

    async def _counted(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        finally:
            self._waiting -= 1

    async def _begin(self, data: bytes, client: "_Client") -> None:
        await self._server.load()
        self._answer(data, client)

    async def _pass_on(self, query: "Query", client: "_Client") -> None:
        self._send(await self._server.forward(query, over_udp=True), client)

    def _send(self, answer: bytes, client: "_Client") -> None:
        if self._udp is not None:
            with suppress(OSError):
                send_from(self._udp, answer, client.asked, client.address)

    # -- TCP ------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client's questions. Absorbs whatever ends the connection."""
        host = plain(writer.get_extra_info("peername")[0])
        if not self._allows(host):
            self._server.refused(host)
        elif self._clients < CONNECTIONS:
            self._clients += 1
            try:
                with suppress(OSError, EOFError, TimeoutError):
                    await self._converse(reader, writer)
            finally:
                self._clients -= 1
        writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(IDLE):
                size = int.from_bytes(await reader.readexactly(2), "big")
                data = await reader.readexactly(size)
            await self._server.load()
            answer = self._server.respond(data, over_udp=False)
            if answer is None:
                return
            if not isinstance(answer, bytes):
                answer = await self._server.forward(answer, over_udp=False)
            writer.write(len(answer).to_bytes(2, "big") + answer)
            async with asyncio.timeout(IDLE):
                await writer.drain()


class _Client(NamedTuple):
    """Who asked, and at which of our addresses."""

    address: Any
    """As the socket module has it."""
    asked: str


def plain(host: str) -> str:
    """Return an address without its scope, and one of IPv4 as such: a socket for both kinds maps it."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


def is_private(host: str) -> bool:
    """Return whether a source is of a private network, or this machine."""
    address = ipaddress.ip_address(host)
    return address.is_private or address.is_loopback or address.is_link_local
