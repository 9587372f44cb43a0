"""A whole node over a scripted chain and a device in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network

import pytest
from tests.scripted import IDENTITY, MemoryArchive, MemoryStore, ScriptedChain, ScriptedSource

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.adapters.device.memory import MemoryDevice, MemoryLink
from dstack_vpn.bridge.endpoints import EndpointBook
from dstack_vpn.bridge.follow import ChainLoop
from dstack_vpn.bridge.members import Members
from dstack_vpn.bridge.node import Node
from dstack_vpn.bridge.reconciler import Reconciler
from dstack_vpn.bridge.recorder import Recorder
from dstack_vpn.bridge.state import ChainState
from dstack_vpn.bridge.tunnel import Tunnel
from dstack_vpn.core.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.desired import PeerPolicy
from dstack_vpn.core.health import Facts, Health, evaluate
from dstack_vpn.core.keys import PrivateKey
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.x25519 import derive

OWN = PrivateKey(bytes(range(1, 33)))


@dataclass
class ScriptedResolver:
    names: dict[str, str] = field(default_factory=dict)

    async def resolve(self, host: str, port: int) -> SocketAddress | None:
        await asyncio.sleep(0)
        return SocketAddress(self.names[host], port) if host in self.names else None


@dataclass
class Bench:
    """Everything around one node, for a test to pull at."""

    chain: ScriptedChain = field(default_factory=ScriptedChain)
    link: MemoryLink = field(default_factory=MemoryLink)
    store: MemoryStore = field(default_factory=MemoryStore)
    archive: MemoryArchive = field(default_factory=MemoryArchive)
    resolver: ScriptedResolver = field(default_factory=ScriptedResolver)
    policy: PeerPolicy = field(default_factory=PeerPolicy)
    confirmations: int = 0
    audit_interval: float = 3600.0
    own_node_id: str | None = "node-0"
    registry: tuple[int, str] | None = None
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
        members = Members(
            derive(OWN),
            self.own_node_id,
            AddressPlan(IPv4Network("10.77.0.0/16"), unique_local_prefix(31337, IDENTITY.contract)),
            self.policy,
            self.confirmations,
            facts,
            clock,
            book.by_udp,
        )
        tunnel = Tunnel(self.link, members, OWN, 51820, "wg0", 1420, facts, clock)
        state = ChainState(members, facts, clock, self.audit_interval, asyncio.Queue(1000))
        chain = ChainLoop(self.source, state)
        reconciler = Reconciler(members, tunnel, facts, clock, chain.confirm)
        members.submit, members.own_changed = reconciler.submit, tunnel.look
        recorder = Recorder(self.store, self.archive, chain, tunnel, state.changed)
        self.node = Node(facts, tunnel, chain, reconciler, recorder, book, self.registry)
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
