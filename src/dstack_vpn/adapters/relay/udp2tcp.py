"""udp2tcp: takes WireGuard's datagrams, and carries those of each source over a TCP or TLS connection.

Sources are told apart by the kernel: the first datagram of each comes to the service's own socket, which then
makes one that is connected to that source (`flow`). What the upstreams are like is known to all flows
(`core.failover`): the first to find one dead spares the others the finding out.
"""

import asyncio
import random
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import structlog

from dstack_vpn.adapters.relay.counters import Counters, Drop
from dstack_vpn.adapters.relay.dial import Dialled, dial
from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.flow import Flow
from dstack_vpn.adapters.relay.limits import Limits, Occupancy
from dstack_vpn.adapters.relay.pktinfo import bind_datagrams, receive_with_destination
from dstack_vpn.adapters.relay.race import race
from dstack_vpn.adapters.seldom import Seldom
from dstack_vpn.core.failover import Failover
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.upstream import Upstream
from dstack_vpn.errors import RelayError

_log = structlog.get_logger(component="relay")
_chance: Final = random.SystemRandom().random

STAGGER: Final = 0.25
"""Seconds between the starts of connection attempts to several upstreams."""
CONNECT: Final = 5.0
"""Seconds that an attempt may take."""
TICK: Final = 0.5
"""Seconds between looks at the flows."""
SPREAD: Final = (0.002, 1.0)
"""Seconds for each flow, and at most, over which reconnections are spread."""
BATCH: Final = 64
"""New sources that are looked at before others have their turn."""
UNHEARD: Final = 10.0
"""Seconds after which a source that nothing was ever sent back to makes room for another."""
ALIVE: Final = 5.0
"""Seconds: an upstream that some flow heard from so lately is not what keeps another waiting."""


class Udp2Tcp:
    """The service; make it within a running event loop."""

    def __init__(
        self,
        engine: Engine,
        listen: SocketAddress,
        upstreams: Sequence[Upstream],
        *,
        limits: Limits | None = None,
        mark: int | None = None,
        foreign: bool = False,
    ) -> None:
        """Bind; raises `RelayError`. ``foreign`` says that the upstreams are somebody else's words."""
        self.engine, self.counters = engine, Counters()
        self.upstreams = tuple(upstreams)
        self.current: Upstream | None = None
        """The upstream that the last flow to connect uses."""
        self.problem: str | None = None
        """Why no upstream could be reached, the last time; None: one could."""
        self._mark, self._foreign = mark, foreign
        self._health = Failover(len(self.upstreams))
        self._occupancy = Occupancy(limits or Limits())
        self._flows: dict[SocketAddress, Flow] = {}
        self._runners: dict[SocketAddress, asyncio.Task[None]] = {}
        self._seldom = Seldom(_log)
        self._socket = bind_datagrams(listen)
        engine.widen(self._socket)
        self._group: asyncio.TaskGroup | None = None
        self._served = asyncio.Event()
        """Set while there are flows."""

    @property
    def address(self) -> SocketAddress:
        """Where it listens."""
        return SocketAddress(*self._socket.getsockname()[:2])

    @property
    def spread(self) -> float:
        """Seconds over which flows that lost the same upstream come back."""
        return min(SPREAD[0] * len(self._flows), SPREAD[1])

    @property
    def flows(self) -> Sequence[Flow]:
        """The sources that are served now."""
        return tuple(self._flows.values())

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = self.engine.loop
        try:
            async with asyncio.TaskGroup() as self._group:
                loop.add_reader(self._socket.fileno(), self._on_new)
                while True:
                    await self._served.wait()  # a node may have thousands of relays that nobody uses
                    await asyncio.sleep(TICK)
                    self._tick(loop.time())
        finally:
            loop.remove_reader(self._socket.fileno())
            self._socket.close()
            for flow in self._flows.values():
                flow.close()

    def retarget(self, upstreams: Sequence[Upstream]) -> None:
        """Use other upstreams from now on: flows connect to them before they leave theirs."""
        if tuple(upstreams) == self.upstreams:
            return
        self.upstreams, self.current = tuple(upstreams), None
        self._health = Failover(len(self.upstreams))

    # -- for flows ------------------------------------------------------------------------------------

    async def connect(self) -> tuple[Upstream, Dialled]:
        """Connect to the best upstream that can be had; raises `RelayError`."""
        now = self.engine.loop.time()
        order = self._health.order(now)
        candidates = [index for index in order if self._health.available(index, now)] or order
        upstreams = [self.upstreams[index] for index in candidates]
        attempts = [partial(self.dial, upstream) for upstream in upstreams]
        won, dialled = await race(attempts, STAGGER, lambda late: late.stream.close())
        return upstreams[won], dialled

    async def dial(self, upstream: Upstream) -> Dialled:
        """Connect to one; raises `RelayError`, and remembers that."""
        self.counters.connects += 1
        try:
            dialled = await dial(upstream, mark=self._mark, timeout=CONNECT, foreign=self._foreign)
        except (RelayError, OSError) as error:
            self.counters.connect_failures += 1
            self._failed(upstream)
            self._seldom.warning("relay.connect_failed", upstream=upstream.name, problem=str(error))
            raise
        self._answered(upstream, dialled.rtt())
        return dialled

    def lost(self, upstream: Upstream, reason: str) -> None:
        """A connection to an upstream ended."""
        self._failed(upstream)
        self._seldom.warning("relay.lost", upstream=upstream.name, problem=reason)

    def stalled(self, upstream: Upstream, reason: str, now: float) -> bool:
        """Answers are overdue on an upstream; returns whether that is to be left.

        Where others hear from it, it is the far peer that is silent. Such a peer may well be gone for good,
        or may have revoked us: no upstream is to blame.
        """
        if any(flow.upstream == upstream and now - flow.heard_at < ALIVE for flow in self._flows.values()):
            return False
        self.counters.stalls += 1
        self._failed(upstream, stalled=True)
        self._seldom.warning("relay.stalled", upstream=upstream.name, problem=reason)
        return True

    def tell_upstream(self, upstream: Upstream, dialled: Dialled) -> None:
        """A flow uses an upstream."""
        self.problem = None
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

    def _failed(self, upstream: Upstream, *, stalled: bool = False) -> None:
        if upstream in self.upstreams:
            index = self.upstreams.index(upstream)
            self._health.failed(index, self.engine.loop.time(), _chance(), stalled=stalled)

    def _answered(self, upstream: Upstream, rtt: float | None) -> None:
        if upstream in self.upstreams:
            self._health.answered(self.upstreams.index(upstream), self.engine.loop.time(), rtt)

    def trouble(self, problem: str) -> None:
        """Nothing can be reached."""
        self.problem = problem
        self._seldom.error("relay.unreachable", problem=problem)

    # -- sources --------------------------------------------------------------------------------------

    def _on_new(self) -> None:
        for _ in range(BATCH):
            try:
                datagram, source, destination = receive_with_destination(self._socket)
            except OSError:
                return  # nothing more there, or an error that was meant for an earlier datagram
            if (flow := self._flows.get(source)) is not None:
                flow.offer(datagram)  # it came before the flow's own socket was connected
            elif self._admit(source):
                self._begin(datagram, source, destination)

    def _admit(self, source: SocketAddress) -> bool:
        if self._occupancy.admits(source.host) or self._make_room(source.host):
            return True
        self.counters.refused += 1
        self.counters.drops[Drop.LIMIT] += 1
        self._seldom.warning("relay.limit", source=source.host, sources=len(self._flows))
        return False

    def _make_room(self, host: str) -> bool:
        """End the oldest source that never had an answer, if it had the time for one."""
        before = self.engine.loop.time() - UNHEARD
        for source, flow in self._flows.items():
            if not flow.heard_at and flow.began < before:
                self._end(source)
                return self._occupancy.admits(host)
        return False

    def _begin(self, datagram: bytes, source: SocketAddress, destination: str) -> None:
        try:
            udp = bind_datagrams(SocketAddress(destination, self.address.port), peer=source)
        except (RelayError, OSError) as error:
            self._seldom.warning("relay.source_refused", source=source.host, problem=str(error))
            return
        assert self._group is not None
        flow = self._flows[source] = Flow(self, udp, source, self.engine.loop.time())
        self._occupancy.enter(source.host)
        self.counters.accepted += 1
        self._served.set()
        flow.offer(datagram)
        self._runners[source] = self._group.create_task(flow.run(), name=f"flow {source}")

    def _end(self, source: SocketAddress) -> None:
        self._flows.pop(source).close()
        self._runners.pop(source).cancel()
        self._occupancy.leave(source.host)
        if not self._flows:
            self._served.clear()

    def _tick(self, now: float) -> None:
        idle = self._occupancy.limits.idle
        for source, flow in list(self._flows.items()):
            flow.tick(now)
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
            if flow.upstream is not None and now - flow.heard_at <= TICK:
                self._answered(flow.upstream, flow.rtt)
        busy = {self.upstreams.index(upstream) for upstream in used if upstream in self.upstreams}
        for index in self._health.probes(now, busy, _chance()) if used else ():
            self._group.create_task(self._probe(self.upstreams[index]), name=f"probe {index}")
        moves = {upstream: self._better(upstream, now) for upstream in used}
        for flow in self._flows.values():
            better = None if flow.upstream is None else moves[flow.upstream]
            if better is not None and flow.may_move():
                self._group.create_task(flow.move(better), name=f"move {flow.source}")

    def _better(self, upstream: Upstream, now: float) -> Upstream | None:
        if upstream not in self.upstreams:
            return self.upstreams[self._health.order(now)[0]]
        index = self._health.better(self.upstreams.index(upstream), now)
        return None if index is None else self.upstreams[index]

    async def _probe(self, upstream: Upstream) -> None:
        """See whether an upstream can be connected to, and how far away it is."""
        try:
            dialled = await self.dial(upstream)
        except (RelayError, OSError):
            return
        dialled.stream.close()

    def snapshot(self) -> dict[str, Any]:
        """What an operator wants to see, as JSON can hold it."""
        used = [flow for flow in self._flows.values() if flow.upstream is not None]
        rtts = sorted(rtt for flow in used if (rtt := flow.rtt) is not None)
        return {
            "upstream": None if self.current is None else self.current.name,
            "connections": len(self._flows),
            "connected": len(used),
            "queued_bytes": sum(flow.queued for flow in self._flows.values()),
            "rtt_ms": round(rtts[len(rtts) // 2] * 1000, 3) if rtts else None,
        }
