"""udp2tcp: carries the WireGuard datagrams of each UDP source over a TCP or TLS connection.

The kernel separates the sources. The first datagram of each arrives at the service's own socket;
the service then opens a socket that is connected to that source (`flow`). All flows share one
rating of the upstreams (`choice`).
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import structlog

from dstack_vpn.adapters.destination import receive_with_destination
from dstack_vpn.adapters.rate_limited_logger import RateLimitedLogger
from dstack_vpn.adapters.relay.choice import Choice
from dstack_vpn.adapters.relay.counters import Counters, Drop
from dstack_vpn.adapters.relay.dial import Dialled, dial
from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.flow import Flow
from dstack_vpn.adapters.relay.limits import Limits
from dstack_vpn.adapters.relay.lookup import Share
from dstack_vpn.adapters.relay.pktinfo import bind_beside, listen_datagrams
from dstack_vpn.adapters.relay.race import race
from dstack_vpn.adapters.turns import turn
from dstack_vpn.core.limits.shares import Places, Sources
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.paths.destination import ANYWHERE, Destinations
from dstack_vpn.core.paths.relay_url import RelayUrl
from dstack_vpn.errors import RelayError

_log = structlog.get_logger(component="relay")

STAGGER: Final = 0.25
"""Seconds between the starts of connection attempts to several upstreams."""
CONNECT: Final = 5.0
"""The timeout of an attempt, in seconds."""
TICK: Final = 0.5
"""Seconds between checks of the flows."""
SPREAD: Final = (0.002, 1.0)
"""Seconds over which reconnections are spread: for each flow, and at most."""
ALIVE: Final = 5.0
"""Seconds for which a frame from an upstream shows that it works, for all flows."""


class Udp2Tcp:
    """The udp2tcp service; create it in a running event loop."""

    def __init__(
        self,
        engine: Engine,
        listen: SocketAddress,
        upstreams: Sequence[RelayUrl],
        *,
        limits: Limits | None = None,
        mark: int | None = None,
        destinations: Destinations = ANYWHERE,
        sources: Sources = Sources(),  # noqa: B008 - frozen
    ) -> None:
        """Bind; raises `RelayError`. ``destinations`` restricts the upstreams' addresses."""
        self.engine, self.counters = engine, Counters()
        self.current: RelayUrl | None = None
        """The upstream that the last flow to connect uses."""
        self._choice = Choice(upstreams)
        self._mark, self._destinations, self._share = mark, destinations, Share()
        self._limits = limits or Limits()
        self._places: Places[SocketAddress] = Places(self._limits.shares())
        self._sources = sources
        self._flows: dict[SocketAddress, Flow] = {}
        self._runners: dict[SocketAddress, asyncio.Task[None]] = {}
        self._rate_limited = RateLimitedLogger(_log)
        self._socket = listen_datagrams(listen)
        engine.widen(self._socket)
        self._group: asyncio.TaskGroup | None = None
        self._served = asyncio.Event()
        """Set while there are flows."""

    @property
    def upstreams(self) -> tuple[RelayUrl, ...]:
        """The upstreams, in order of preference."""
        return self._choice.upstreams

    @property
    def address(self) -> SocketAddress:
        """The listening address."""
        return SocketAddress(*self._socket.getsockname()[:2])

    @property
    def spread(self) -> float:
        """Seconds over which the reconnections of flows that lost the same upstream are spread."""
        return min(SPREAD[0] * len(self._flows), SPREAD[1])

    @property
    def flows(self) -> Sequence[Flow]:
        """The flows of the current sources."""
        return tuple(self._flows.values())

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = self.engine.loop
        try:
            async with asyncio.TaskGroup() as self._group:
                loop.add_reader(self._socket.fileno(), self._on_new)
                while True:
                    await self._served.wait()  # a node may have thousands of unused relays
                    await asyncio.sleep(TICK)
                    self._tick(loop.time())
        finally:
            loop.remove_reader(self._socket.fileno())
            self.close()

    def close(self) -> None:
        """Close all sockets and connections."""
        self._socket.close()
        for flow in self._flows.values():
            flow.close()

    def retarget(self, upstreams: Sequence[RelayUrl]) -> None:
        """Use other upstreams; flows connect to them before they leave their own."""
        if tuple(upstreams) != self.upstreams:
            self._choice, self.current = Choice(upstreams), None

    @property
    def problem(self) -> str | None:
        """The reason that no datagram passes, as far as this side knows; None if none is known."""
        used = {flow.upstream for flow in self._flows.values() if flow.upstream is not None}
        return self._choice.problem(used) if self._flows else None

    def unanswered(self) -> float:
        """Return the seconds for which answers to every source are overdue; else 0."""
        now = self.engine.loop.time()
        return min((flow.silence(now) for flow in self._flows.values()), default=0.0)

    # -- for flows ---------------------------------------------------------------------------------

    async def connect(self) -> tuple[RelayUrl, Dialled]:
        """Connect to the best upstream that is reachable; raises `RelayError`."""
        upstreams = self._choice.order(self.engine.loop.time())
        attempts = [partial(self.dial, upstream) for upstream in upstreams]
        won, dialled = await race(attempts, STAGGER, lambda late: late.stream.close())
        return upstreams[won], dialled

    async def dial(self, upstream: RelayUrl) -> Dialled:
        """Connect to an upstream and record the outcome; raises `RelayError`."""
        self.counters.connects += 1
        try:
            dialled = await dial(
                upstream,
                self.engine.names,
                mark=self._mark,
                timeout=CONNECT,
                destinations=self._destinations,
                share=self._share,
            )
        except (RelayError, OSError) as error:
            self.counters.connect_failures += 1
            self._choice.failed(upstream, self.engine.loop.time())
            self._rate_limited.warning("relay.connect_failed", upstream=upstream.name, problem=str(error))
            raise
        self._choice.connected(upstream, self.engine.loop.time(), dialled.rtt())
        return dialled

    def lost(self, upstream: RelayUrl, reason: str, *, carried: bool) -> None:
        """Record that a connection ended.

        If it carried no frame, the upstream's rating falls only if no other flow receives from it.
        """
        now = self.engine.loop.time()
        if carried:
            self._choice.failed(upstream, now)
            self._choice.unreachable = f"{upstream.name}: {reason}"
        elif not self._is_alive(upstream, now):
            self._choice.carried_nothing(upstream, now, reason)
            return
        self._rate_limited.warning("relay.lost", upstream=upstream.name, problem=reason)

    def note_received(self, upstream: RelayUrl) -> None:
        """Record that a frame arrived from an upstream."""
        self._choice.note_received(upstream, self.engine.loop.time())

    def stalled(self, upstream: RelayUrl, reason: str, now: float) -> bool:
        """Return True to leave an upstream whose answers are overdue.

        If other flows receive from it, the far peer is silent: it may be offline, or have revoked
        this node.
        """
        if self._is_alive(upstream, now):
            return False
        self.counters.stalls += 1
        self._choice.failed(upstream, now, stalled=True)
        self._rate_limited.warning("relay.stalled", upstream=upstream.name, problem=reason)
        return True

    def report_upstream(self, upstream: RelayUrl, dialled: Dialled) -> None:
        """Record that a flow uses an upstream, and log a change."""
        self._choice.unreachable = None
        if upstream == self.current:
            return
        self.current = upstream
        _log.info(
            "relay.upstream",
            upstream=upstream.name,
            address=str(dialled.address),
            tls=dialled.tls_version,
            took_ms=round(dialled.took * 1000, 1),
        )

    def _is_alive(self, upstream: RelayUrl, now: float) -> bool:
        flows = (flow for flow in self._flows.values() if flow.upstream == upstream)
        return any(flow.has_received(ALIVE, now) for flow in flows)

    def report_unreachable(self, problem: str) -> None:
        """Record that no upstream can be reached, and log the reason."""
        self._choice.unreachable = problem
        self._rate_limited.error("relay.unreachable", problem=problem)

    # -- sources -----------------------------------------------------------------------------------

    def _on_new(self) -> None:
        for _ in turn():
            try:
                datagram, source, destination = receive_with_destination(self._socket)
            except OSError:
                return  # the queue is empty, or the error belongs to an earlier datagram
            if (flow := self._flows.get(source)) is not None:
                flow.offer(datagram)  # received before the flow's own socket was connected
            elif self._admit(source):
                self._begin(datagram, source, destination)

    def _admit(self, source: SocketAddress) -> bool:
        """Reserve a place for a source; return False if none is free.

        A source without an answer from the far WireGuard may lose its place to it.
        """
        taken = self._places.take(self._sources.of(source.host), source, self.engine.loop.time())
        if taken is not None:
            if taken.displaced is not None:
                self._end(taken.displaced)
            return True
        self.counters.refused += 1
        self.counters.drops[Drop.LIMIT] += 1
        self._rate_limited.warning("relay.limit", source=source.host, sources=len(self._flows))
        return False

    def _begin(self, datagram: bytes, source: SocketAddress, destination: str) -> None:
        try:
            udp = bind_beside(self._socket, SocketAddress(destination, self.address.port), source)
        except (RelayError, OSError) as error:
            self._places.leave(source)
            self._rate_limited.warning("relay.source_refused", source=source.host, problem=str(error))
            return
        assert self._group is not None
        flow = self._flows[source] = Flow(self, udp, source, self.engine.loop.time())
        self.counters.accepted += 1
        self._served.set()
        flow.offer(datagram)
        self._runners[source] = self._group.create_task(flow.run(), name=f"flow {source}")

    def _end(self, source: SocketAddress) -> None:
        self._flows.pop(source).close()
        self._runners.pop(source).cancel()
        self._places.leave(source)
        if not self._flows:
            self._served.clear()

    def _tick(self, now: float) -> None:
        idle = self._limits.idle
        for source, flow in list(self._flows.items()):
            flow.tick(now)
            if flow.answered:
                self._places.firm(source)
            if now - flow.active_at > idle:
                self._end(source)
        self._compare(now)

    def _compare(self, now: float) -> None:
        """Measure the upstreams, and move flows to better ones, a few at a time."""
        assert self._group is not None
        used = {flow.upstream for flow in self._flows.values() if flow.upstream is not None}
        if len(self.upstreams) == 1 and used <= {*self.upstreams}:
            return
        for flow in self._flows.values():
            if flow.upstream is not None and flow.has_received(TICK, now):
                self._choice.measured(flow.upstream, now, flow.rtt)
        for upstream in self._choice.probes(now, used) if used else ():
            self._group.create_task(self._probe(upstream), name=f"probe {upstream.name}")
        moves = {upstream: self._choice.better(upstream, now) for upstream in used}
        for flow in self._flows.values():
            better = None if flow.upstream is None else moves[flow.upstream]
            if better is not None and flow.may_move():
                self._group.create_task(flow.move(better), name=f"move {flow.source}")

    async def _probe(self, upstream: RelayUrl) -> None:
        """Connect to an upstream to record its availability and round-trip time."""
        try:
            dialled = await self.dial(upstream)
        except (RelayError, OSError):
            return
        dialled.stream.close()

    def snapshot(self) -> dict[str, Any]:
        """Return the state for operators, as JSON values."""
        used = [flow for flow in self._flows.values() if flow.upstream is not None]
        rtts = sorted(rtt for flow in used if (rtt := flow.rtt) is not None)
        return {
            "upstream": None if self.current is None else self.current.name,
            "connections": len(self._flows),
            "connected": len(used),
            "problem": self.problem,
            "unanswered_s": round(self.unanswered(), 1),
            "queued_bytes": sum(flow.queued for flow in self._flows.values()),
            "rtt_ms": round(rtts[len(rtts) // 2] * 1000, 3) if rtts else None,
        }
