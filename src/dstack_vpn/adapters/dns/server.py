"""The DNS responder: UDP and TCP (RFC 7766) on the tunnel addresses and on configured addresses.

It follows the tunnel's addresses. On these it replies to members and to this machine. On a
configured address it replies to private sources. Other sources get no reply, not even a refusal, so
the responder can't amplify a flood.
"""

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from dstack_vpn.adapters.binding import is_here, refusal
from dstack_vpn.adapters.dns.desk import Desk
from dstack_vpn.adapters.dns.listener import Listener, is_private
from dstack_vpn.adapters.rate_limited_logger import RateLimitedLogger
from dstack_vpn.core.limits.shares import Sources
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.names import Answer, DnsStatus
from dstack_vpn.errors import FormatError

if TYPE_CHECKING:
    from dstack_vpn.adapters.dns.messages import Query
    from dstack_vpn.adapters.dns.upstream import Forwarder

_log = structlog.get_logger(component="dns")

LOOK: Final = 1.0
"""Seconds between readings of the tunnel's addresses."""


class Directory(Protocol):
    """The records of the zone."""

    def answer(self, name: str, kind: str) -> Answer:
        """Return the answer for a name, without its trailing dot, and a record type."""

    def authority(self, zone: str) -> str:
        """Return a zone's SOA record."""

    def addresses(self) -> frozenset[str]:
        """Return the current tunnel addresses of this node."""

    def is_member_address(self, host: str) -> bool:
        """Return True if a source is in the tunnel's ranges."""


@dataclass(slots=True)
class DnsServer:
    """A DNS server for a directory."""

    directory: Directory
    port: int
    """The port on the tunnel addresses. 0: do not listen there."""
    extra: Sequence[SocketAddress] = ()
    """The configured addresses."""
    resolvers: Callable[[], Sequence[SocketAddress]] = tuple
    """Returns the servers that get queries outside our zone. Empty: refuse such queries."""
    sources: Sources = field(default_factory=Sources)
    answers: Counter[str] = field(default_factory=Counter)
    """Counts by response code."""
    loaded: bool = False
    """True if the library that parses messages was imported, at the first query."""
    desk: Desk = field(init=False)
    _open: dict[SocketAddress, Listener] = field(default_factory=dict)
    _problems: dict[SocketAddress, str] = field(default_factory=dict)
    _upstream: "Forwarder | None" = None
    _rate_limited: RateLimitedLogger = field(default_factory=lambda: RateLimitedLogger(_log))
    _forwarding: asyncio.TaskGroup | None = None

    def __post_init__(self) -> None:
        self.desk = Desk(self.sources)

    async def run(self) -> None:
        """Serve until cancelled. An unavailable address is logged and tried again."""
        try:
            async with asyncio.TaskGroup() as self._forwarding:
                while True:
                    await self._follow()
                    await asyncio.sleep(LOOK)
        finally:
            for listener in self._open.values():
                listener.close()

    async def _follow(self) -> None:
        """Listen on the current addresses only."""
        hosts = self.directory.addresses() if self.port else ()
        tunnel = {SocketAddress(host, self.port) for host in hosts}
        wanted = {*tunnel, *self.extra}
        for address in self._open.keys() - wanted:
            self._open.pop(address).close()
        for address in sorted(wanted - self._open.keys()):
            allows = self.allows_on_tunnel if address in tunnel else is_private
            listener = Listener(self, address, allows)
            try:
                await listener.open()
            except OSError as error:
                listener.close()
                self._report(address, f"can't listen on {address}: {refusal(error, address.port)}")
                continue
            self._open[address] = listener
            self._problems.pop(address, None)
            _log.info("dns.listening", address=str(address))
        for address in self._problems.keys() - wanted:
            del self._problems[address]
        for address in self._open.keys() & {*self.extra}:
            if is_here(address.host):
                self._problems.pop(address, None)
            else:
                self._report(address, f"can't listen on {address}: this machine does not have that address")

    def _report(self, address: SocketAddress, problem: str) -> None:
        if self._problems.get(address) != problem:
            self._problems[address] = problem
            _log.error("dns.trouble", problem=problem, better="set another DNS_PORT, or 0 to switch DNS off")

    @property
    def problem(self) -> str | None:
        """The reason why some addresses don't serve. None if all do."""
        return "; ".join(problem for _, problem in sorted(self._problems.items())) or None

    @property
    def listening(self) -> frozenset[SocketAddress]:
        """The addresses that serve."""
        return frozenset(self._open)

    def allows_on_tunnel(self, host: str) -> bool:
        """Return True if a source may send queries to the tunnel addresses."""
        return self.directory.is_member_address(host) or ipaddress.ip_address(host).is_loopback

    async def load(self) -> None:
        """Import the message codec in a thread: 6 MB and 30 ms that most nodes do not need."""
        if not self.loaded:
            await asyncio.to_thread(import_module, "dstack_vpn.adapters.dns.messages")
            self.loaded = True

    def refused(self, host: str) -> None:
        """Count and log a query from a source that is not allowed."""
        self.answers["none"] += 1
        self._rate_limited.warning("dns.stranger", source=host)

    def respond(self, data: bytes, *, over_udp: bool) -> "bytes | Query | None":
        """Return the reply, a query to forward, or None for no reply."""
        from dstack_vpn.adapters.dns import messages

        try:
            query = messages.parse(data)
        except FormatError:
            self.answers["formerr"] += 1
            return messages.complaint(data)
        asked = messages.question(query)
        recursive = bool(self.resolvers())
        if not isinstance(asked, tuple):
            self.answers[asked.name.lower()] += 1
            return messages.refusal(query, asked, recursive=recursive)
        answer = self.directory.answer(*asked)
        if answer.verdict is DnsStatus.FOREIGN and recursive:
            self.answers["forwarded"] += 1
            return query
        self.answers[_CODES[answer.verdict]] += 1
        return messages.reply(query, answer, self.directory.authority, recursive=recursive, over_udp=over_udp)

    async def forward(self, query: "Query", *, over_udp: bool) -> bytes:
        """Return a resolver's reply."""
        if self._upstream is None:
            from dstack_vpn.adapters.dns.upstream import Forwarder

            self._upstream = Forwarder(self.resolvers)
        return await self._upstream.ask(query, over_udp=over_udp)

    def in_background(self, work: Coroutine[None, None, None]) -> None:
        """Run work in a task."""
        assert self._forwarding is not None
        self._forwarding.create_task(work, name="dns forward")


_CODES: Final = {
    DnsStatus.FOUND: "noerror",
    DnsStatus.NO_DATA: "noerror",
    DnsStatus.NO_NAME: "nxdomain",
    DnsStatus.FOREIGN: "refused",
}
