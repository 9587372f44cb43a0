"""One UDP source of udp2tcp: its socket, its connection to an upstream, and reconnections.

    connecting --connected--> carrying --lost, stalled--> connecting
                                  '-----a better upstream: connect there first, move, then close

A connection that ended without having carried a frame, or within `BRIEF`, counts as a failure, like
one that could not be made: the next attempt waits, and the wait doubles each time.

While there is no connection, the newest datagrams are kept. The flow's socket is connected to the
source and bound to the address that the source sent to, in addition to the service's own socket, so
that the kernel separates the sources.
"""

import asyncio
import math
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from dstack_vpn.adapters.relay.counters import Counters
from dstack_vpn.adapters.relay.dial import Dialled
from dstack_vpn.adapters.relay.direct import DirectProbe
from dstack_vpn.adapters.relay.downlink import Downlink
from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.outbox import Sink
from dstack_vpn.adapters.relay.uplink import Uplink
from dstack_vpn.core.limits.backoff import full_jitter
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.paths.relay_url import RelayUrl
from dstack_vpn.core.wireguard.framing import TLS
from dstack_vpn.errors import RelayError

_log = structlog.get_logger(component="relay")
_chance: Final = random.SystemRandom().random

LINGER: Final = 3.0
"""Seconds for which a connection is still read after the flow has moved to another."""
MOVING: Final = 0.1
"""The share of flows that begin to move in a tick."""
RETRY: Final = (0.25, 5.0)
"""Seconds between failed attempts: the bound of the first pause, and of the longest."""
BRIEF: Final = 1.0
"""Seconds that a connection must have lasted, and carried a frame, to count as a success."""


@dataclass(slots=True, eq=False)
class _Link:
    """A connection to an upstream."""

    upstream: RelayUrl
    dialled: Dialled
    downlink: Downlink
    since: float
    received_at: float = -math.inf
    """The time of the last tick that found a new frame."""

    def carried(self, now: float) -> bool:
        """Return whether it has lasted and carried a frame, and so counts as a success."""
        return self.downlink.opened and now - self.since >= BRIEF

    def close(self) -> None:
        self.downlink.close()
        self.dialled.stream.close()


class Service(Protocol):
    """The service whose sources the flows are; `adapters.relay.udp2tcp.Udp2Tcp` implements it."""

    engine: Engine
    counters: Counters

    @property
    def spread(self) -> float:
        """Seconds over which the reconnections of flows that lost the same upstream are spread."""

    async def connect(self) -> tuple[RelayUrl, Dialled]:
        """Connect to the best upstream; raises `RelayError`."""

    async def dial(self, upstream: RelayUrl) -> Dialled:
        """Connect to this upstream; raises `RelayError`."""

    def lost(self, upstream: RelayUrl, reason: str, *, carried: bool) -> None:
        """Record that a connection ended, and whether it carried a frame."""

    def note_received(self, upstream: RelayUrl) -> None:
        """Record that a frame arrived from an upstream."""

    def stalled(self, upstream: RelayUrl, reason: str, now: float) -> bool:
        """Return whether to leave an upstream whose answers are overdue."""

    def report_upstream(self, upstream: RelayUrl, dialled: Dialled) -> None:
        """Record that a flow uses an upstream."""

    def report_unreachable(self, problem: str) -> None:
        """Record that no upstream can be reached, and the reason."""


class Flow:
    """Carries one source's datagrams."""

    def __init__(self, service: Service, udp: socket.socket, source: SocketAddress, now: float) -> None:
        self.source, self.began, self.active_at = source, now, now
        self.answered = False
        """True after the first frame from any upstream."""
        self._service, self._udp = service, udp
        self._uplink = Uplink(service.engine, udp, service.counters, self._lost)
        self._sink = Sink(udp, service.engine.offload, service.counters, self._uplink.look_again)
        self._link: _Link | None = None
        self._probe: DirectProbe | None = None
        self._old: set[_Link] = set()
        self._wanted = asyncio.Event()
        self._down_since: float | None = None
        self._silent_since: float | None = None
        self._failures = 0
        self._closed = self._moving = False

    @property
    def upstream(self) -> RelayUrl | None:
        """The relay in use; None while there is no connection."""
        return None if self._link is None else self._link.upstream

    @property
    def queued(self) -> int:
        """The number of waiting bytes."""
        return self._uplink.queued()

    @property
    def rtt(self) -> float | None:
        """The round trip to the upstream in seconds, as TCP has measured it."""
        return None if self._link is None else self._link.dialled.rtt()

    def has_received(self, within: float, now: float) -> bool:
        """Return whether the upstream in use sent a frame in the last ``within`` seconds.

        A frame since the last tick counts too.
        """
        link = self._link
        if link is None or not link.downlink.opened:
            return False
        return link.downlink.received or now - link.received_at < within

    def silence(self, now: float) -> float:
        """Return the seconds for which answers have been overdue; 0 if they are not."""
        return 0.0 if self._silent_since is None else now - self._silent_since

    def offer(self, datagram: bytes) -> None:
        """Queue a datagram that arrived at the service's own socket."""
        self._uplink.offer(datagram)

    async def run(self) -> None:
        """Keep a connection for as long as the flow lives. Absorbs every failure to connect."""
        while True:
            self._wanted.clear()
            try:
                upstream, dialled = await self._service.connect()
            except (RelayError, OSError) as error:
                self._failures += 1
                self._service.report_unreachable(f"no upstream can be reached: {error}")
            else:
                self._use(upstream, dialled)
                await self._wanted.wait()
            await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        """Return the seconds until the next attempt: at least half of the bound, which doubles."""
        if self._failures:
            return full_jitter(self._failures, 0.5 + _chance() / 2, base=RETRY[0], cap=RETRY[1])
        # Thousands of flows may have lost the same upstream at the same moment.
        return _chance() * self._service.spread

    def may_move(self) -> bool:
        """Return True to move now; the order of a service's flows is random."""
        return not self._moving and self._link is not None and _chance() < MOVING

    async def move(self, upstream: RelayUrl) -> None:
        """Connect to a better upstream, and only then leave the one in use.

        Absorbs failures to connect.
        """
        self._moving = True
        try:
            dialled = await self._service.dial(upstream)
        except (RelayError, OSError):
            return
        finally:
            self._moving = False
        if self._closed or self._link is None or self._link.upstream == upstream:
            dialled.stream.close()
            return
        old, self._link = self._link, None
        self._old.add(old)
        self._service.engine.loop.call_later(LINGER, self._let_go, old)
        self._use(upstream, dialled)

    def tick(self, now: float) -> None:
        """Check the traffic since the last tick, and leave an upstream that owes answers."""
        link = self._link
        sent, received = self._uplink.take_sent(), link is not None and link.downlink.received
        if sent or received:
            self.active_at = now
        if link is None:
            return
        link.downlink.received = False
        received = received and link.downlink.opened
        if received:
            link.received_at, self.answered, self._silent_since = now, True, None
            self._service.note_received(link.upstream)
        elif sent and not self.answered:
            self._silent_since = self._silent_since or now
        overdue = self._uplink.watch.tick(now, sent=sent, received=received)
        if overdue is None:
            return
        self._silent_since = self._silent_since or now
        self._uplink.watch.reset()
        if self._service.stalled(link.upstream, overdue, now):
            self._lost(overdue, blame=False)

    def probe(self, to: SocketAddress, mark: int | None, answered: Callable[[], None]) -> None:
        """Probe the peer by UDP at that address; raises `OSError`, `RelayError`.

        Calls ``answered`` when the peer answers from there.
        """
        self.end_probe()
        if self._link is not None:
            self._probe = DirectProbe(self._service.engine, self._uplink, self._udp, answered)
            self._probe.start(to, mark)

    def end_probe(self) -> None:
        """End the probe by UDP."""
        if self._probe is not None:
            self._probe.close()
            self._probe = None

    def hold(self, *, on: bool) -> None:
        """Hold the packets for WireGuard, or release them."""
        for link in (*self._old, *([self._link] if self._link else ())):
            link.downlink.hold(on=on)
        if self._probe is not None:
            self._probe.hold(on=on)

    def close(self) -> None:
        """Close the sockets and connections."""
        self._closed = True
        self.end_probe()
        self._uplink.close()
        for link in (*self._old, *([self._link] if self._link else ())):
            link.close()
        self._old.clear()
        self._link = None
        self._udp.close()

    # -- helpers -----------------------------------------------------------------------------------

    def _use(self, upstream: RelayUrl, dialled: Dialled) -> None:
        service = self._service
        link: _Link

        def ended(reason: str) -> None:
            if link is self._link:
                self._lost(reason)
            else:
                self._let_go(link)

        downlink = Downlink(service.engine, dialled.stream, self._sink, self._uplink.watch, ended)
        link = self._link = _Link(upstream, dialled, downlink, service.engine.loop.time())
        self._uplink.attach(dialled.stream)
        if self._down_since is not None:
            service.counters.reconnects += 1
            self._down_since = None
        service.report_upstream(upstream, dialled)

    def _lost(self, reason: str, *, blame: bool = True) -> None:
        """Close the connection in use, and request another one."""
        link, self._link = self._link, None
        if link is None:
            return
        self._uplink.detach()
        link.close()
        now = self._down_since = self._service.engine.loop.time()
        self._failures = 0 if link.carried(now) else self._failures + 1
        if blame:
            self._service.lost(link.upstream, _barren(link, reason), carried=link.downlink.opened)
        self._wanted.set()

    def _let_go(self, link: _Link) -> None:
        if link in self._old:
            self._old.discard(link)
            link.close()


def _barren(link: _Link, reason: str) -> str:
    """Return the reason that a connection ended; with a probable cause if it carried no frame."""
    downlink, upstream = link.downlink, link.upstream
    if downlink.opened:
        return reason
    if downlink.foreign is None:
        return "it ends connections without an answer: a gateway without its backend, or a limit"
    fix = "write tls:// in the URL" if downlink.foreign == TLS and not upstream.tls else "it is not a relay"
    return f"{reason}: {fix}"
