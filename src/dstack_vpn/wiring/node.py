"""The composition root: from settings to a node that is ready to run. Nothing else knows the adapters."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

import structlog

from dstack_vpn.adapters import logs
from dstack_vpn.adapters.chain.pool import RpcPool
from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.adapters.contracts import by_name
from dstack_vpn.adapters.device.backend import choose_backend, make_link
from dstack_vpn.adapters.device.late import LateLink
from dstack_vpn.adapters.hardening import harden
from dstack_vpn.adapters.keys.keyring import FileKeyRing
from dstack_vpn.adapters.relay.sockets import can_send
from dstack_vpn.adapters.resolver import SystemResolver
from dstack_vpn.adapters.store.archive import FileArchive
from dstack_vpn.adapters.store.endpoints import EndpointFile
from dstack_vpn.adapters.store.lock import lock
from dstack_vpn.adapters.store.sqlite import SqliteStore
from dstack_vpn.bridge.endpoints import EndpointBook
from dstack_vpn.bridge.follow import ChainLoop
from dstack_vpn.bridge.greeter import Greeter
from dstack_vpn.bridge.jury import Jury
from dstack_vpn.bridge.members import Members
from dstack_vpn.bridge.node import Node
from dstack_vpn.bridge.reconciler import Reconciler
from dstack_vpn.bridge.recorder import Recorder
from dstack_vpn.bridge.rotation import Rotation
from dstack_vpn.bridge.state import ChainState
from dstack_vpn.bridge.transports import Transports
from dstack_vpn.bridge.tunnel import Tunnel
from dstack_vpn.config import Settings
from dstack_vpn.core.expiry import ExpiryClock
from dstack_vpn.core.health import Facts, QuorumFacts
from dstack_vpn.core.model import BlockRef, DeviceState
from dstack_vpn.core.ownership import Claim
from dstack_vpn.core.quorum import Quorum
from dstack_vpn.core.staleness import Staleness
from dstack_vpn.core.x25519 import derive
from dstack_vpn.errors import ConfigError
from dstack_vpn.ports import Link
from dstack_vpn.wiring.addresses import address_plan, destinations, peer_policy
from dstack_vpn.wiring.firewall import gate
from dstack_vpn.wiring.keys import identity_of, with_key
from dstack_vpn.wiring.ledger import auditor_of
from dstack_vpn.wiring.names import serve_names
from dstack_vpn.wiring.ownership import taken
from dstack_vpn.wiring.renewal import renewal_of
from dstack_vpn.wiring.rpc import rpc_urls
from dstack_vpn.wiring.running import published
from dstack_vpn.wiring.secrets import of_node, refuse_exposed
from dstack_vpn.wiring.transports import Relays
from dstack_vpn.wiring.view import NodeView

if TYPE_CHECKING:
    # Loaded where it is used: the daemon has no use for what the commands do on the chain. The commands take
    # the names of the types from here.
    from dstack_vpn.adapters.admin import reading, registry, transactions

    Access: TypeAlias = registry.Access
    Administrator: TypeAlias = registry.Administrator
    NodeName: TypeAlias = reading.NodeName
    Receipt: TypeAlias = transactions.Receipt
    Snapshot: TypeAlias = reading.Snapshot

_log = structlog.get_logger(component="node")

TUNNEL_FIRST: Final = 1.0
"""Seconds that the API waits for the tunnel at the start."""
_CHANGES = 10_000
"""Steps of the registry that may wait to be stored."""


def chain_source(settings: Settings) -> RpcPool:
    """The configured endpoints."""
    return RpcPool(
        settings.rpc_url,
        settings.contract_address,
        proxies=settings.proxies,
        chain_id=settings.chain_id,
        abi=None if settings.contract_abi == "auto" else by_name(settings.contract_abi),
        block_time=settings.network.block_time,
        start_block=settings.start_block,
    )


def registry_access(settings: Settings) -> "Access":
    """The registry, to be read once by a command; logs are silent from here on but for errors."""
    from dstack_vpn.adapters.admin.registry import Access

    logs.configure("error", {}, "console")
    abi = None if settings.contract_abi == "auto" else by_name(settings.contract_abi)
    return Access(rpc_urls(settings), settings.chain_id, settings.contract_address, abi, settings.start_block)


def administrator(settings: Settings, tell: Callable[[str], None], timeout: float) -> "Administrator":
    """Transactions on the registry; raises `ConfigError` and `AdminError` where nothing can be signed."""
    from dstack_vpn.adapters.admin.registry import Administrator
    from dstack_vpn.adapters.admin.signer import Signer

    if settings.contract_private_key is None:
        raise ConfigError(["CONTRACT_PRIVATE_KEY (or CONTRACT_PRIVATE_KEY_FILE): is not set"])
    signer = Signer(settings.contract_private_key.reveal())
    return Administrator(registry_access(settings), signer, tell, timeout)


def node_name(text: str) -> "NodeName":
    """A node as a person names it; raises `FormatError`."""
    from dstack_vpn.adapters.admin.reading import NodeName

    return NodeName.parse(text)


def now() -> float:
    """Unix seconds."""
    return SystemClock().now()


def judged_now(settings: Settings, at: BlockRef) -> float:
    """Return the Unix time by which a command judges expiry in the state after a block."""
    clock = ExpiryClock()
    if settings.network.block_time is not None:  # else anybody sets the chain's time
        clock.adopted(float(at.timestamp), 0.0)
    return clock.now(now(), 0.0)


async def look_at_device(settings: Settings) -> DeviceState | None:
    """The device as it is, untouched; None where there is none. Raises `DeviceError`."""
    from dstack_vpn.adapters.admin.device import look

    return await look(settings.interface)


def endpoint_book(settings: Settings) -> EndpointBook:
    """Host names, resolved by the system."""
    return EndpointBook(SystemResolver(destinations(settings)), SystemClock())


def late_link(settings: Settings, claim: Claim) -> Link:
    """The interface's link, by the backend that the host has when it is started."""
    wanted = cast("Literal['auto', 'kernel', 'userspace']", settings.backend)

    async def choose() -> Link:
        return make_link(await choose_backend(wanted, settings.interface), claim)

    return LateLink(choose)


def archive(settings: Settings) -> FileArchive:
    """The wg-quick file and its backups."""
    return FileArchive(settings.wireguard_config, settings.state_dir)


def build(settings: Settings, link: Link, relays: Relays) -> Node:
    """A node, ready to run."""
    if settings.wireguard_private_key is None:
        raise ConfigError(["WIREGUARD_PRIVATE_KEY (or WIREGUARD_PRIVATE_KEY_FILE): is not set"])
    clock = SystemClock()
    facts = Facts(
        started=clock.now(),
        paced=settings.network.block_time is not None,
        max_staleness=settings.max_staleness,
        stale_policy=settings.stale_policy,
    )
    endpoints = endpoint_book(settings)
    transports = Transports(settings.transport, endpoints, clock, relays.to_peer, can_send, facts=facts)
    members = Members(
        own_key=derive(settings.wireguard_private_key),
        identity=identity_of(settings),
        addresses=address_plan(settings),
        policy=peer_policy(settings),
        confirmations=settings.grant_confirmations,
        facts=facts,
        clock=clock,
        lookup=transports.where,
        quorum=Quorum(settings.rpc_quorum) if settings.rpc_quorum > 1 else None,
        staleness=Staleness(settings.max_staleness, settings.stale_policy),
    )
    tunnel = Tunnel(
        link=link,
        members=members,
        private_key=settings.wireguard_private_key,
        listen_port=settings.listen_port,
        name=settings.interface,
        mtu=settings.mtu,
        facts=facts,
        clock=clock,
        key_on_disk=not settings.key_from_agent,
    )
    state = ChainState(members, facts, clock, settings.sync_interval, asyncio.Queue(_CHANGES))
    chain = ChainLoop(chain_source(settings), state)
    if members.quorum is not None:
        chain.jury = Jury(state, chain.source, members.quorum)
        members.doubted = chain.jury.wake
        facts.quorum = QuorumFacts(settings.rpc_quorum)
    reconciler = Reconciler(members, tunnel, facts, clock, chain.confirm, proven=transports.proven)
    members.submit, members.own_changed = reconciler.submit, tunnel.look
    rotation = renewal = None
    if settings.key_file is not None:
        rotation = Rotation(ring := FileKeyRing(settings.key_file), tunnel, reconciler.initiate)
        members.rekey = rotation.adopt
        renewal = renewal_of(settings, chain, ring)
    transports.read, transports.changed = tunnel.read, members.reached_anew
    transports.point, transports.in_use = reconciler.point, members.membership.peers.keys
    recorder = Recorder(
        SqliteStore(settings.state_dir / "registry.sqlite"), archive(settings), chain, tunnel, state.changed
    )
    greeter = Greeter(
        tunnel, members, EndpointFile(settings.state_dir / "endpoints.json"), reconciler.initiate
    )
    return Node(
        facts,
        tunnel,
        chain,
        reconciler,
        recorder,
        endpoints,
        transports,
        greeter,
        rotation=rotation,
        renewal=renewal,
        registry=(settings.chain_id, settings.contract_address),
        keep_interface=settings.keep_interface,
    )


async def run(settings: Settings) -> None:
    """Run the daemon until SIGTERM or SIGINT; a second signal ends it at once. Raises `ConfigError`."""
    logs.configure(settings.log_level, settings.log_levels, settings.log_format)
    harden()
    refuse_exposed(of_node(settings))
    lock(settings.state_dir)
    settings = await with_key(settings)
    logs.tell_exposed(settings.exposed)
    logs.tell_unknown(settings.unknown)
    async with taken(settings) as claim:
        with published(settings):
            await _run(settings, claim)


async def _run(settings: Settings, claim: Claim) -> None:
    relays = Relays(settings)
    node = build(settings, late_link(settings, claim), relays)
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    gc.freeze()
    # The threads that write files share the interpreter: none may hold it up for 5 ms, as is the default.
    sys.setswitchinterval(0.0005)
    services: dict[str, Callable[[], Awaitable[None]]] = {}
    view = NodeView(node, settings.state_dir)
    if isinstance(node.chain.source, RpcPool):
        view.rpc = node.chain.source.calls
    if settings.relay_listen is not None:
        view.own_relay = own = await relays.of_our_own(settings.relay_listen)
        view.watch("relay", lambda: own.problem)
        services["relay"] = own.run
    if settings.health_check_port:
        services["web"] = _serve(node, view, settings)
    if settings.dns_port or settings.dns_listen:
        services["dns"] = partial(serve_names, settings, node, view)
    auditor = auditor_of(settings, node)
    services["audit"] = auditor.run
    guard = gate(settings, node)
    if guard is not None:
        services["firewall"] = guard.run
    await node.run(stop, services)
    node.tunnel.private_key.wipe()
    await auditor.close()
    if guard is not None and not settings.keep_interface:
        await guard.stop()


def _serve(node: Node, view: NodeView, settings: Settings) -> Callable[[], Awaitable[None]]:
    async def serve() -> None:
        # The web server takes 30 ms to import. The tunnel comes first, if it comes up at all.
        with suppress(TimeoutError):
            await asyncio.wait_for(node.filled.wait(), TUNNEL_FIRST)
        from dstack_vpn.wiring.web import serve_node

        await serve_node(view, settings)

    return serve
