"""A whole node over a scripted chain and a device in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any

import pytest
from tests.scripted import IDENTITY, MemoryArchive, MemoryStore, ScriptedChain, ScriptedSource

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.adapters.device.memory import MemoryDevice, MemoryLink
from dstack_vpn.bridge.endpoints import EndpointBook
from dstack_vpn.bridge.follow import ChainLoop
from dstack_vpn.bridge.greeter import Greeter
from dstack_vpn.bridge.members import Members
from dstack_vpn.bridge.node import Node
from dstack_vpn.bridge.reconciler import Reconciler
from dstack_vpn.bridge.recorder import Recorder
from dstack_vpn.bridge.state import ChainState
from dstack_vpn.bridge.transports import Transports
from dstack_vpn.bridge.tunnel import Tunnel
from dstack_vpn.core.access import Identity
from dstack_vpn.core.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.desired import PeerPolicy
from dstack_vpn.core.health import Facts, Health, evaluate
from dstack_vpn.core.keys import PrivateKey, PublicKey
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.reach import Reach
from dstack_vpn.core.staleness import Staleness, StalePolicy
from dstack_vpn.core.transport import Transport
from dstack_vpn.core.upstream import Upstream
from dstack_vpn.core.x25519 import derive
from dstack_vpn.errors import StoreError

OWN = PrivateKey(bytes(range(1, 33)))


@dataclass
class ScriptedResolver:
    names: dict[str, str] = field(default_factory=dict)

    async def resolve(self, host: str, port: int) -> SocketAddress | None:
        await asyncio.sleep(0)
        return SocketAddress(self.names[host], port) if host in self.names else None


class MemoryOfEndpoints:
    """Implements `ports.EndpointMemory`."""

    def __init__(self) -> None:
        self.saved: dict[PublicKey, SocketAddress] = {}
        self.broken = False

    async def load(self) -> Mapping[PublicKey, SocketAddress]:
        await self._turn()
        return dict(self.saved)

    async def save(self, endpoints: Mapping[PublicKey, SocketAddress]) -> None:
        await self._turn()
        self.saved = dict(endpoints)

    async def _turn(self) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise StoreError("the disk is full")


class FakeRelay:
    """Implements `ports.PeerRelay`, and notes what it is told."""

    def __init__(self, port: int, upstreams: Sequence[Upstream]) -> None:
        self.address = SocketAddress("127.0.0.1", port)
        self.upstreams = tuple(upstreams)
        self.running = self.held = False
        self.problem: str | None = None
        self.probes: list[tuple[SocketAddress, Callable[[], None]]] = []

    async def run(self) -> None:
        self.running = True
        try:
            await asyncio.Event().wait()
        finally:
            self.running = False

    def retarget(self, upstreams: Sequence[Upstream]) -> None:
        self.upstreams = tuple(upstreams)

    def probe(self, to: SocketAddress, answered: Callable[[], None]) -> None:
        self.probes.append((to, answered))

    def hold(self, *, on: bool) -> None:
        self.held = on

    def snapshot(self) -> Mapping[str, Any]:
        return {"upstream": self.upstreams[0].name, "rtt_ms": 1.0}


@dataclass
class FakeRelays:
    """Makes relays, and says whether UDP can be sent."""

    made: list[FakeRelay] = field(default_factory=list)
    udp: bool = True

    async def make(self, reach: Reach) -> FakeRelay:
        self.made.append(FakeRelay(40_000 + len(self.made), reach.relays))
        return self.made[-1]

    def can_send(self, to: SocketAddress) -> bool:
        return self.udp


@dataclass
class Bench:
    """Everything around one node, for a test to pull at."""

    chain: ScriptedChain = field(default_factory=ScriptedChain)
    link: MemoryLink = field(default_factory=MemoryLink)
    store: MemoryStore = field(default_factory=MemoryStore)
    archive: MemoryArchive = field(default_factory=MemoryArchive)
    memory: MemoryOfEndpoints = field(default_factory=MemoryOfEndpoints)
    resolver: ScriptedResolver = field(default_factory=ScriptedResolver)
    policy: PeerPolicy = field(default_factory=PeerPolicy)
    relays: FakeRelays = field(default_factory=FakeRelays)
    transport: Transport = Transport.AUTO
    confirmations: int = 0
    audit_interval: float = 3600.0
    own_node_id: str | None = "node-0"
    registry: tuple[int, str] | None = None
    staleness: float = 3600.0
    policy_when_stale: StalePolicy = StalePolicy.KEEP
    source: ScriptedSource = field(init=False)
    node: Node = field(init=False)

    def __post_init__(self) -> None:
        self.source = ScriptedSource(self.chain)

    @property
    def device(self) -> MemoryDevice:
        assert self.link.device is not None
        return self.link.device

    def tokens(self) -> set[int]:
        """The tokens of the device's peers, by their addresses."""
        plan = self.node.tunnel.members.addresses
        peers = [] if self.link.device is None else self.link.device.peers.values()
        found = {plan.token_at(cidr.partition("/")[0]) for peer in peers for cidr in peer.allowed_ips}
        return {token for token in found if token is not None}

    def health(self) -> Health:
        return evaluate(self.node.facts, SystemClock().now())

    def component(self, name: str) -> str:
        return next(f"{c.status}: {c.reason}" for c in self.health().components if c.name == name)

    def follows(self) -> bool:
        """Whether the chain is followed."""
        return self.node.facts.synced is not None and self.node.facts.chain_problem is None

    def build(self) -> Node:
        clock = SystemClock()
        facts = Facts(started=clock.now())
        book = EndpointBook(self.resolver, clock)
        transports = Transports(self.transport, book, clock, self.relays.make, self.relays.can_send)
        members = Members(
            derive(OWN),
            Identity(self.own_node_id),
            AddressPlan(IPv4Network("10.77.0.0/16"), unique_local_prefix(31337, IDENTITY.contract)),
            self.policy,
            self.confirmations,
            facts,
            clock,
            transports.where,
            staleness=Staleness(self.staleness, self.policy_when_stale),
        )
        tunnel = Tunnel(self.link, members, OWN, 51820, "wg0", 1420, facts, clock)
        state = ChainState(members, facts, clock, self.audit_interval, asyncio.Queue(1000))
        chain = ChainLoop(self.source, state)
        reconciler = Reconciler(members, tunnel, facts, clock, chain.confirm, proven=transports.proven)
        members.submit, members.own_changed = reconciler.submit, tunnel.look
        transports.read, transports.changed = tunnel.read, members.reached_anew
        transports.point, transports.in_use = reconciler.point, members.membership.peers.keys
        recorder = Recorder(self.store, self.archive, chain, tunnel, state.changed)
        greeter = Greeter(tunnel, members, self.memory, reconciler.initiate)
        self.node = Node(facts, tunnel, chain, reconciler, recorder, book, transports, greeter, self.registry)
        return self.node

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Node]:
        """The node, running; it ends in order."""
        node, stop = self.build(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(node.run(stop, {}))
            try:
                yield node
            finally:
                stop.set()


async def eventually(
    condition: Callable[[], object], what: str = "the condition", timeout: float = 5.0
) -> None:
    """Wait until it holds; fail with what was waited for."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - what is waited for is anything at all
            await asyncio.sleep(0.002)
    assert condition(), what


@pytest.fixture
def bench() -> Bench:
    return Bench()
