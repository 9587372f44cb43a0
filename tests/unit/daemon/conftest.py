"""A complete node over a scripted chain and an in-memory device."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any

import pytest
from tests.memory_device import MemoryDevice, MemoryLink
from tests.memory_echo import MemoryEcho
from tests.memory_firewall import MemoryFirewall
from tests.scripted import IDENTITY, MemoryArchive, MemoryStore, ScriptedChain, ScriptedSource

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.access.control import NodeIdentity
from dstack_vpn.core.access.membership import PeerPolicy
from dstack_vpn.core.access.staleness import StalePolicy
from dstack_vpn.core.chain.usage_days import UsageDays
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.observe.audit_chain import ORIGIN, Anchor, AuditRecord
from dstack_vpn.core.observe.health import Health, evaluate
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.paths.relay_url import RelayUrl
from dstack_vpn.core.paths.routes import NO_ROUTES, AcceptRoutes
from dstack_vpn.core.paths.selector import TransportMode
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.daemon.daemon import Daemon
from dstack_vpn.daemon.observe import persistence
from dstack_vpn.errors import StoreError
from dstack_vpn.wiring.assembly import Options, Outside, assemble

OWN = PrivateKey(bytes(range(1, 33)))


@dataclass
class ScriptedResolver:
    names: dict[str, str] = field(default_factory=dict)

    async def resolve(self, host: str, port: int) -> SocketAddress | None:
        await asyncio.sleep(0)
        return SocketAddress(self.names[host], port) if host in self.names else None


class MemoryOfEndpoints:
    """An in-memory `ports.EndpointMemory`."""

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


class MemoryOfUsage:
    """An in-memory `ports.UsageMemory`."""

    def __init__(self) -> None:
        self.saved = UsageDays()
        self.broken = False

    async def load(self) -> UsageDays:
        await self._turn()
        return self.saved

    async def save(self, days: UsageDays) -> None:
        await self._turn()
        self.saved = days

    async def _turn(self) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise StoreError("the disk is full")


class MemoryAuditLog:
    """An in-memory `ports.AuditLog`."""

    def __init__(self) -> None:
        self.notes: list[AuditRecord] = []

    def append(self, notes: Sequence[AuditRecord]) -> Anchor:
        self.notes += notes
        return ORIGIN

    def forget(self, *, now: float, before: float, largest: int) -> int:
        return 0


class FakeRelay:
    """A `ports.PeerRelay` that records its probes and its state."""

    def __init__(self, port: int, upstreams: Sequence[RelayUrl]) -> None:
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

    def retarget(self, upstreams: Sequence[RelayUrl]) -> None:
        self.upstreams = tuple(upstreams)

    def probe(self, to: SocketAddress, answered: Callable[[], None]) -> None:
        self.probes.append((to, answered))

    def hold(self, *, on: bool) -> None:
        self.held = on

    def snapshot(self) -> Mapping[str, Any]:
        return {"upstream": self.upstreams[0].name, "rtt_ms": 1.0}


@dataclass
class FakeRelays:
    """A factory of relays, with a flag for the route of UDP."""

    made: list[FakeRelay] = field(default_factory=list)
    udp: bool = True

    async def make(self, peer_endpoint: PeerEndpoint) -> FakeRelay:
        self.made.append(FakeRelay(40_000 + len(self.made), peer_endpoint.relays))
        return self.made[-1]

    def can_send(self, to: SocketAddress) -> bool:
        return self.udp


@dataclass
class Bench:
    """One node and all of its adapters, which the test controls."""

    chain: ScriptedChain = field(default_factory=ScriptedChain)
    link: MemoryLink = field(default_factory=MemoryLink)
    store: MemoryStore = field(default_factory=MemoryStore)
    archive: MemoryArchive = field(default_factory=MemoryArchive)
    memory: MemoryOfEndpoints = field(default_factory=MemoryOfEndpoints)
    usage: MemoryOfUsage = field(default_factory=MemoryOfUsage)
    resolver: ScriptedResolver = field(default_factory=ScriptedResolver)
    policy: PeerPolicy = field(default_factory=PeerPolicy)
    relays: FakeRelays = field(default_factory=FakeRelays)
    firewall: MemoryFirewall = field(default_factory=MemoryFirewall)
    echo: MemoryEcho = field(default_factory=MemoryEcho)
    transport: TransportMode = TransportMode.AUTO
    confirmations: int = 0
    resync_interval: float = 3600.0
    rpc_daily_calls: int = 0
    own_node_id: str | None = "node-0"
    registry: tuple[int, str] | None = None
    staleness: float = 3600.0
    keep_interface: bool = False
    protect: bool = False
    exit_nodes: tuple[str, ...] = ()
    accept_routes: AcceptRoutes = NO_ROUTES
    machines: list[tuple[str, str]] = field(default_factory=list)
    policy_when_stale: StalePolicy = StalePolicy.KEEP
    source: ScriptedSource = field(init=False)
    node: Daemon = field(init=False)

    def __post_init__(self) -> None:
        self.source = ScriptedSource(self.chain)

    @property
    def device(self) -> MemoryDevice:
        assert self.link.device is not None
        return self.link.device

    def tokens(self) -> set[int]:
        """Return the tokens of the device's peers, by their addresses."""
        plan = self.node.tunnel.members.addresses
        peers = [] if self.link.device is None else self.link.device.peers.values()
        found = {plan.token_at(cidr.partition("/")[0]) for peer in peers for cidr in peer.allowed_ips}
        return {token for token in found if token is not None}

    def health(self) -> Health:
        return evaluate(self.node.reporter.collect(), SystemClock().now())

    def component(self, name: str) -> str:
        return next(f"{c.status}: {c.reason}" for c in self.health().components if c.name == name)

    def follows(self) -> bool:
        """Return True while the chain is followed."""
        return self.node.members.synced is not None and self.node.chain.state.problem is None

    def build(self) -> Daemon:
        self.node = assemble(self._outside(), self._options())
        return self.node

    def _outside(self) -> Outside:
        return Outside(
            clock=SystemClock(),
            source=self.source,
            link=self.link,
            store=self.store,
            archive=self.archive,
            audit_log=MemoryAuditLog(),
            memory=self.memory,
            usage_memory=self.usage,
            resolver=self.resolver,
            make_relay=self.relays.make,
            can_send=self.relays.can_send,
            ring=None,
            changer=None,
            firewall=self.firewall,
            forward_resolver=self.resolver,
            echo=self.echo,
            machine_resolver=self.resolver,
            machines=lambda: self.machines,
        )

    def _options(self) -> Options:
        return Options(
            private_key=OWN,
            key_on_disk=True,
            identity=NodeIdentity(self.own_node_id),
            addresses=AddressPlan(IPv4Network("10.77.0.0/16"), unique_local_prefix(31337, IDENTITY.contract)),
            policy=self.policy,
            registry=self.registry,
            paced=False,
            confirmations=self.confirmations,
            quorum=1,
            head_interval=0.0,
            resync_interval=self.resync_interval,
            revokes_early=False,
            rpc_daily_calls=self.rpc_daily_calls,
            max_staleness=self.staleness,
            stale_policy=self.policy_when_stale,
            interface="wg0",
            listen_port=51820,
            mtu=1420,
            transport=self.transport,
            keep_interface=self.keep_interface,
            key_schedule=None,
            audit_keep_for=3600.0,
            audit_keep_bytes=1_000_000,
            protect=self.protect,
            closed_ports=frozenset(),
            forwards=(),
            accept_routes=self.accept_routes,
            keeps_source=False,
            policy_file=None,
            mark=11_800 if self.exit_nodes else None,
            exit_nodes=self.exit_nodes,
            exit_allow_lan=False,
            unprotected=None,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Daemon]:
        """Run the node, and stop it in order."""
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
    """Wait until the condition holds; raise TimeoutError after ``timeout`` seconds."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - the condition is arbitrary
            await asyncio.sleep(0.002)
    assert condition(), what


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read pins and write the wg-quick file at once instead of within a second."""
    monkeypatch.setattr(persistence, "CONFIG_INTERVAL", 0.05)


@pytest.fixture
def bench() -> Bench:
    return Bench()
