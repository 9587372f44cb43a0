"""The DNS responder: UDP and TCP (RFC 7766) on the node's tunnel addresses, and where the operator wants it.

It follows the tunnel's addresses. On these it answers members and this machine; on an address of the
operator's choice, private sources. Others get no answer, not even a refusal: it can be used to flood nobody.
"""

import asyncio
import ipaddress
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from dstack_vpn.adapters.seldom import Seldom
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.names import Answer, Verdict
from dstack_vpn.errors import FormatError

if TYPE_CHECKING:
    from dstack_vpn.adapters.dns.messages import Query
    from dstack_vpn.adapters.dns.upstream import Upstream

_log = structlog.get_logger(component="dns")

LOOK: Final = 1.0
"""Seconds between looks at which addresses the tunnel has."""
CONNECTIONS: Final = 16
"""TCP clients at once."""
IDLE: Final = 5.0
"""Seconds that a TCP client may take for a question."""
FORWARDED: Final = 64
"""Questions over UDP that wait for somebody else's answer at once."""
_IP_FREEBIND: Final = 15
"""linux/in.h: bind before the tunnel has its address, and keep it while the interface is made anew."""
_IPV6_FREEBIND: Final = 78
"""linux/in6.h"""


class Directory(Protocol):
    """What there is to tell."""

    def answer(self, name: str, kind: str) -> Answer:
        """Answer for a name, without its trailing dot, and a record type."""

    def authority(self, zone: str) -> str:
        """A zone's SOA record."""

    def addresses(self) -> frozenset[str]:
        """The tunnel addresses of this node, as of now."""

    def is_member_address(self, host: str) -> bool:
        """Whether a source is in the tunnel's ranges."""


@dataclass(slots=True)
class DnsServer:
    """Serves a directory."""

    directory: Directory
    port: int
    """On the tunnel addresses; 0: not there."""
    extra: Sequence[SocketAddress] = ()
    """Addresses of the operator's choice."""
    resolvers: Sequence[SocketAddress] = ()
    """Where to forward what is not ours; none: refuse it."""
    answers: Counter[str] = field(default_factory=Counter)
    """How many, by response code."""
    loaded: bool = False
    """Whether a question has come yet, and what answers it has been imported."""
    _open: dict[SocketAddress, "_Listener"] = field(default_factory=dict)
    _upstream: "Upstream | None" = None
    _seldom: Seldom = field(default_factory=lambda: Seldom(_log))
    _forwarding: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Serve until cancelled. An address that can't be had is tried again; a log line tells."""
        if self.resolvers:
            from dstack_vpn.adapters.dns.upstream import Upstream

            self._upstream = Upstream(self.resolvers)
        try:
            async with asyncio.TaskGroup() as self._forwarding:
                while True:
                    await self._follow()
                    await asyncio.sleep(LOOK)
        finally:
            for listener in self._open.values():
                listener.close()

    async def _follow(self) -> None:
        """Listen where we should, and nowhere else."""
        hosts = self.directory.addresses() if self.port else ()
        tunnel = {SocketAddress(host, self.port) for host in hosts}
        wanted = {*tunnel, *self.extra}
        for address in self._open.keys() - wanted:
            self._open.pop(address).close()
        for address in sorted(wanted - self._open.keys()):
            allows = self.allows_on_tunnel if address in tunnel else _is_private
            listener = _Listener(self, address, allows)
            try:
                await listener.open()
            except OSError as error:
                listener.close()
                problem = f"can't listen on {address}: {error.strerror}"
                self._seldom.error("dns.trouble", problem=problem, better="another DNS_PORT, or 0 for none")
                continue
            self._open[address] = listener
            _log.info("dns.listening", address=str(address))

    @property
    def listening(self) -> frozenset[SocketAddress]:
        """Where it serves."""
        return frozenset(self._open)

    def allows_on_tunnel(self, host: str) -> bool:
        """Whether a source may ask on the tunnel's addresses."""
        return self.directory.is_member_address(host) or ipaddress.ip_address(host).is_loopback

    async def load(self) -> None:
        """Import what reads and writes messages, aside: 6 MB and 30 ms that most nodes have no need of."""
        if not self.loaded:
            await asyncio.to_thread(import_module, "dstack_vpn.adapters.dns.messages")
            self.loaded = True

    def refused(self, host: str) -> None:
        """Somebody asked who may not."""
        self.answers["none"] += 1
        self._seldom.warning("dns.stranger", source=host)

    def respond(self, data: bytes, *, over_udp: bool) -> "bytes | Query | None":
        """The answer at once; a query that is to be forwarded; None: no answer at all."""
        from dstack_vpn.adapters.dns import messages

        try:
            query = messages.parse(data)
        except FormatError:
            self.answers["formerr"] += 1
            return messages.complaint(data)
        asked = messages.question(query)
        recursive = self._upstream is not None
        if not isinstance(asked, tuple):
            self.answers[asked.name.lower()] += 1
            return messages.refusal(query, asked, recursive=recursive)
        answer = self.directory.answer(*asked)
        if answer.verdict is Verdict.FOREIGN and recursive:
            self.answers["forwarded"] += 1
            return query
        self.answers[_CODES[answer.verdict]] += 1
        return messages.reply(query, answer, self.directory.authority, recursive=recursive, over_udp=over_udp)

    async def forward(self, query: "Query", *, over_udp: bool) -> bytes:
        """Somebody else's answer."""
        assert self._upstream is not None
        return await self._upstream.ask(query, over_udp=over_udp)

    def in_background(self, work: Coroutine[None, None, None]) -> None:
        """Have somebody else's answer carried to whom it is for."""
        assert self._forwarding is not None
        self._forwarding.create_task(work, name="dns forward")


_CODES: Final = {
    Verdict.FOUND: "noerror",
    Verdict.NO_DATA: "noerror",
    Verdict.NO_NAME: "nxdomain",
    Verdict.FOREIGN: "refused",
}


class _Listener(asyncio.DatagramProtocol):
    """One address, over UDP and TCP."""

    def __init__(self, server: DnsServer, address: SocketAddress, allows: Callable[[str], bool]) -> None:
        self._server, self._address, self._allows = server, address, allows
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._clients = 0
        self._waiting = 0

    async def open(self) -> None:
        """Bind; raises `OSError`."""
        loop = asyncio.get_running_loop()
        udp = _bind(self._address, socket.SOCK_DGRAM)
        self._udp, _ = await loop.create_datagram_endpoint(lambda: self, sock=udp)
        tcp = _bind(self._address, socket.SOCK_STREAM)
        self._tcp = await asyncio.start_server(self._serve, sock=tcp, limit=1 << 16, backlog=CONNECTIONS)

    def close(self) -> None:
        """Give both sockets back."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()

    # -- UDP ------------------------------------------------------------------------------------------

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """See `asyncio.DatagramProtocol`."""
        if not self._allows(addr[0]):
            return self._server.refused(addr[0])
        if not self._server.loaded:
            return self._later(self._begin(data, addr))
        return self._answer(data, addr)

    def _answer(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._server.respond(data, over_udp=True)
        if isinstance(answer, bytes):
            self._send(answer, addr)
        elif answer is not None:
            self._later(self._pass_on(answer, addr))

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

    def error_received(self, exc: Exception) -> None:
        """See `asyncio.DatagramProtocol`: a client has gone before its answer came."""

    async def _begin(self, data: bytes, addr: tuple[str, int]) -> None:
        await self._server.load()
        self._answer(data, addr)

    async def _pass_on(self, query: "Query", addr: tuple[str, int]) -> None:
        self._send(await self._server.forward(query, over_udp=True), addr)

    def _send(self, answer: bytes, addr: tuple[str, int]) -> None:
        if self._udp is not None and not self._udp.is_closing():
            self._udp.sendto(answer, addr)

    # -- TCP ------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client's questions. Absorbs whatever ends the connection."""
        host = writer.get_extra_info("peername")[0]
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


def _is_private(host: str) -> bool:
    address = ipaddress.ip_address(host)
    return address.is_private or address.is_loopback or address.is_link_local


def _bind(address: SocketAddress, kind: socket.SocketKind) -> socket.socket:
    """A socket at an address that this machine need not have yet; raises `OSError`."""
    ipv6 = ":" in address.host
    bound = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, kind)
    try:
        if ipv6:
            bound.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            bound.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if kind is socket.SOCK_STREAM:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
