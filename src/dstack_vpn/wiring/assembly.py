"""The construction of a daemon from its parts, bottom-up, by constructor arguments only.

`Outside` has the adapters, `Options` the values from the settings. This module imports neither the
adapters nor the settings.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.access.answers import Answers
from dstack_vpn.core.access.control import NodeIdentity
from dstack_vpn.core.access.membership import PeerPolicy
from dstack_vpn.core.access.quorum import Quorum
from dstack_vpn.core.access.staleness import Staleness, StalePolicy
from dstack_vpn.core.chain.budget import Budget
from dstack_vpn.core.exit_routing import MARK
from dstack_vpn.core.model import Address, SocketAddress
from dstack_vpn.core.observe.reports import FirewallReport
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.paths.port_forward import Forward
from dstack_vpn.core.paths.routes import AcceptRoutes
from dstack_vpn.core.paths.selector import TransportMode
from dstack_vpn.core.policy.document import PolicyDocument
from dstack_vpn.core.policy.selection import PolicySelection
from dstack_vpn.core.wireguard.key_age import Schedule
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.daemon.chain.loop import ChainLoop
from dstack_vpn.daemon.chain.quorum_checker import QuorumChecker
from dstack_vpn.daemon.chain.state import ChainState
from dstack_vpn.daemon.daemon import Daemon
from dstack_vpn.daemon.device.firewall import FirewallController
from dstack_vpn.daemon.device.key_expiry import KeyExpiry
from dstack_vpn.daemon.device.key_rotation import KeyRotation
from dstack_vpn.daemon.device.own_keys import OwnKeys
from dstack_vpn.daemon.device.tunnel import Tunnel, TunnelKeeper
from dstack_vpn.daemon.observe.answers import AnswerWatch
from dstack_vpn.daemon.observe.audit_writer import AuditWriter
from dstack_vpn.daemon.observe.denied import DeniedWatch
from dstack_vpn.daemon.observe.event_log import EventLog
from dstack_vpn.daemon.observe.event_logger import EventLogger
from dstack_vpn.daemon.observe.health import HealthWatch
from dstack_vpn.daemon.observe.peer_stats import PeerStatsCache
from dstack_vpn.daemon.observe.persistence import Persistence
from dstack_vpn.daemon.observe.reporter import Reporter
from dstack_vpn.daemon.observe.roles import RoleWatch
from dstack_vpn.daemon.observe.rpc_usage import RpcUsage
from dstack_vpn.daemon.peers.debounce import Debounce
from dstack_vpn.daemon.peers.early import EarlyRevocations
from dstack_vpn.daemon.peers.endpoints import EndpointBook
from dstack_vpn.daemon.peers.executor import PlanExecutor
from dstack_vpn.daemon.peers.exit_keeper import ExitKeeper
from dstack_vpn.daemon.peers.handshakes import HandshakeInitiator
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.daemon.peers.path_keeper import PathKeeper
from dstack_vpn.daemon.peers.paths import Paths
from dstack_vpn.daemon.peers.pending import PendingChanges
from dstack_vpn.daemon.peers.policies import Policies
from dstack_vpn.daemon.peers.reconciler import Reconciler
from dstack_vpn.daemon.peers.removal_guard import MassRemovalGuard
from dstack_vpn.daemon.peers.resolving import EndpointResolver
from dstack_vpn.daemon.peers.route_keeper import RouteKeeper
from dstack_vpn.daemon.peers.routes import Routes
from dstack_vpn.ports import (
    AuditLog,
    ChainSource,
    Clock,
    ConfigArchive,
    Echo,
    EndpointMemory,
    ExitGuard,
    Firewall,
    KeyChanger,
    KeyRing,
    Link,
    PeerRelay,
    Resolver,
    Store,
    UsageMemory,
)

_CHANGES: Final = 10_000
"""The limit of registry steps that wait to be stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """The adapters."""

    clock: Clock
    source: ChainSource
    link: Link
    store: Store
    archive: ConfigArchive
    audit_log: AuditLog
    memory: EndpointMemory
    usage_memory: UsageMemory
    resolver: Resolver
    make_relay: Callable[[PeerEndpoint], Awaitable[PeerRelay]]
    can_send: Callable[[SocketAddress], bool]
    ring: KeyRing | None
    """The node's keys; None if it can't change them."""
    changer: KeyChanger | None
    """Rotates the key by its age; None if this is not configured."""
    firewall: Firewall
    forward_resolver: Resolver
    """Resolves the targets of FORWARD_TO."""
    echo: Echo
    machine_resolver: Resolver
    """Resolves the hosts of `machines`."""
    machines: Callable[[], Sequence[tuple[str, str]]]
    """Returns the machines that this node must reach outside of the tunnel, beside its peers: what
    each is, and its host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The values from the settings."""

    private_key: PrivateKey
    key_on_disk: bool
    identity: NodeIdentity
    addresses: AddressPlan
    policy: PeerPolicy
    registry: tuple[int, Address] | None
    """Chain id and contract."""
    paced: bool
    """Set if blocks come at a known pace."""
    confirmations: int
    quorum: int
    resync_interval: float
    """Seconds."""
    head_interval: float
    """Seconds between heads if they are queried; 0 if they are announced."""
    revokes_early: bool
    """Pre-confirmed events remove peers."""
    rpc_daily_calls: int
    """The budget of RPC calls for a day; 0: no limit."""
    max_staleness: float
    """Seconds."""
    stale_policy: StalePolicy
    interface: str
    listen_port: int
    mtu: int
    transport: TransportMode
    keep_interface: bool
    key_schedule: Schedule | None
    audit_keep_for: float
    """Seconds."""
    audit_keep_bytes: int
    protect: bool
    """Block packets to and from the VPN outside the interface."""
    closed_ports: frozenset[tuple[str, int]]
    """See `ports.FirewallRules.closed`."""
    forwards: Sequence[Forward]
    accept_routes: AcceptRoutes
    keeps_source: bool
    """See `ports.FirewallRules.keeps_source`."""
    policy_file: PolicyDocument | None
    """The policy of POLICY_FILE."""
    mark: int | None
    """The mark of control traffic."""
    exit_nodes: tuple[str, ...]
    """EXIT_NODE, the preferred ones first."""
    exit_allow_lan: bool
    """Packets to local networks may leave outside of the tunnel."""
    unprotected: FirewallReport | None
    """The report that no packet filter protects the tunnel; None if one does."""


def assemble(outside: Outside, options: Options) -> Daemon:
    """Return a daemon that is ready to run."""
    clock = outside.clock
    event_log, event_logger = EventLog(clock), EventLogger()
    audit_writer = AuditWriter(outside.audit_log, clock, options.audit_keep_for, options.audit_keep_bytes)
    event_log.subscribe(event_logger.take)
    event_log.subscribe(audit_writer.take)
    publish = event_log.publish

    # The members, and the paths to them.
    keys = OwnKeys(options.private_key, outside.ring, options.key_on_disk)
    book = EndpointBook(outside.resolver, clock)
    paths = Paths(options.transport, book)
    changes = PendingChanges(Debounce(clock))
    doubted, own_changed = asyncio.Event(), asyncio.Event()
    selection = PolicySelection(options.policy_file)
    policies = Policies(options.addresses, selection, clock, publish, has_exit=bool(options.exit_nodes))
    routes = Routes(options.accept_routes, clock, publish, own_changed.set)
    members = Members(
        own_key=derive(options.private_key),
        identity=options.identity,
        addresses=options.addresses,
        policy=options.policy,
        confirmations=options.confirmations,
        clock=clock,
        paced=options.paced,
        lookup=paths.where,
        quorum=Quorum(options.quorum) if options.quorum > 1 else None,
        staleness=Staleness(options.max_staleness, options.stale_policy),
        submit=changes.submit,
        doubted=doubted.set,
        own_changed=own_changed.set,
        rekey=keys.adopt,
        policies=policies,
        routes=routes,
        early=EarlyRevocations(options.revokes_early, clock, publish),
        publish=publish,
    )

    # The chain.
    budget = Budget.of(options.rpc_daily_calls, options.max_staleness)
    rpc_usage = RpcUsage(outside.source, outside.usage_memory, clock, budget, publish)
    state = ChainState(
        members,
        clock,
        options.resync_interval,
        asyncio.Queue(_CHANGES),
        publish,
        rpc_usage.until_resync,
        options.head_interval,
    )
    quorum_checker = (
        None if members.quorum is None else QuorumChecker(state, outside.source, members.quorum, doubted)
    )
    chain = ChainLoop(outside.source, state, quorum_checker)

    # The device.
    tunnel = Tunnel(
        link=outside.link,
        members=members,
        keys=keys,
        listen_port=options.listen_port,
        name=options.interface,
        mtu=options.mtu,
        mark=options.mark,
        exits=bool(options.exit_nodes),
        clock=clock,
    )
    prefixes = frozenset(map(str, options.addresses.networks))
    filled, foreign_edit = asyncio.Event(), asyncio.Event()
    firewall_controller = FirewallController(
        firewall=outside.firewall,
        resolver=outside.forward_resolver,
        interface=options.interface,
        prefixes=prefixes,
        protect=options.protect,
        policies=policies,
        clock=clock,
        publish=publish,
        enforced=members.policy_enforced,
        unenforced=members.policy_unenforced,
        filled=filled,
        exits=bool(options.exit_nodes),
        noticed=foreign_edit.set,
        closed=options.closed_ports,
        forwards=options.forwards,
        keeps_source=options.keeps_source,
    )
    executor = PlanExecutor(tunnel, members, firewall_controller.settle, publish)
    removal_guard = MassRemovalGuard(members, clock, publish)
    peer_stats, answers = PeerStatsCache(tunnel), Answers()
    handshakes = HandshakeInitiator(tunnel, members, outside.memory, executor.initiate, peer_stats)
    persistence = Persistence(outside.store, outside.archive, chain, tunnel, keys, state.changed)
    resolver = EndpointResolver(book, members, clock)
    reconciler = Reconciler(
        members=members,
        tunnel=tunnel,
        executor=executor,
        removal_guard=removal_guard,
        changes=changes,
        answers=answers,
        clock=clock,
        confirm=chain.confirm,
        proven=paths.proven,
        renewing=handshakes.initiate_all,
        applied=routes.applied,
        filled=filled,
        observers=(peer_stats.observe, persistence.config_changed, handshakes.observe, resolver.observe),
        publish=publish,
    )
    roles = RoleWatch(members, peer_stats, answers, clock, outside.echo)
    route_keeper = RouteKeeper(members, tunnel, roles, paths, outside.machine_resolver, outside.machines)
    denied = DeniedWatch(
        firewall=outside.firewall,
        interface=options.interface,
        policies=policies,
        node_at=members.node_at,
        publish=publish,
    )
    key_rotation = (
        None if outside.ring is None else KeyRotation(keys, outside.ring, tunnel, executor.initiate)
    )
    key_expiry = None
    if outside.ring is not None and outside.changer is not None and options.key_schedule is not None:
        key_expiry = KeyExpiry(chain, outside.ring, outside.changer, options.key_schedule, publish)

    # The exit.
    exit_keeper = ExitKeeper(
        names=options.exit_nodes,
        guard=ExitGuard(options.interface, prefixes, options.mark or MARK, options.exit_allow_lan),
        firewall=outside.firewall,
        members=members,
        clock=clock,
        publish=publish,
        standing=roles.standing,
        watch=partial(roles.watch, what="exits"),
        edited=foreign_edit,
    )

    # Observation.
    reporter = Reporter(
        started=clock.now(),
        chain=state,
        tunnel=tunnel,
        removal_guard=removal_guard,
        paths=paths,
        persistence=persistence,
        audit_writer=audit_writer,
        quorum_checker=quorum_checker,
        key_expiry=key_expiry,
        firewall_controller=firewall_controller,
        exit_keeper=exit_keeper,
        rpc_usage=rpc_usage,
        unprotected=options.unprotected,
    )
    return Daemon(
        registry=options.registry,
        keep_interface=options.keep_interface,
        event_log=event_log,
        event_logger=event_logger,
        keys=keys,
        members=members,
        chain=chain,
        tunnel=tunnel,
        keeper=TunnelKeeper(tunnel, own_changed, reconciler.fill, route_keeper.survey, reconciler.renew),
        reconciler=reconciler,
        path_keeper=PathKeeper(
            paths, tunnel, members, executor, clock, outside.make_relay, outside.can_send, publish
        ),
        resolver=resolver,
        persistence=persistence,
        handshakes=handshakes,
        peer_stats=peer_stats,
        denied=denied,
        answers=AnswerWatch(peer_stats, members, clock, publish, answers),
        roles=roles,
        exit_keeper=exit_keeper,
        route_keeper=route_keeper,
        rpc_usage=rpc_usage,
        health=HealthWatch(reporter.collect, clock, publish),
        reporter=reporter,
        audit_writer=audit_writer,
        firewall_controller=firewall_controller,
        key_rotation=key_rotation,
        key_expiry=key_expiry,
    )
