"""The start of the daemon: from the settings to a running node, until a signal ends it."""

import asyncio
import gc
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, cast

from dstack_vpn.adapters import logs
from dstack_vpn.adapters.chain.pool import RpcPool
from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.adapters.contracts import by_name
from dstack_vpn.adapters.device.backend import choose_backend, make_link
from dstack_vpn.adapters.device.deferred import DeferredLink
from dstack_vpn.adapters.echo import IcmpEcho
from dstack_vpn.adapters.firewall import NftFirewall
from dstack_vpn.adapters.hardening import harden
from dstack_vpn.adapters.keys.keyring import FileKeyRing
from dstack_vpn.adapters.relay.sockets import can_send
from dstack_vpn.adapters.resolver import SystemResolver
from dstack_vpn.adapters.store.archive import FileArchive
from dstack_vpn.adapters.store.endpoints import EndpointFile
from dstack_vpn.adapters.store.lock import lock
from dstack_vpn.adapters.store.sqlite import SqliteStore
from dstack_vpn.adapters.store.usage import UsageFile
from dstack_vpn.adapters.uplink import look_up_by
from dstack_vpn.config import Settings
from dstack_vpn.core.ownership import Claim
from dstack_vpn.core.paths.destination import Destinations
from dstack_vpn.core.wireguard.key_age import Schedule
from dstack_vpn.daemon.daemon import Daemon
from dstack_vpn.errors import ConfigError
from dstack_vpn.ports import ChainSource, Firewall, Link
from dstack_vpn.wiring.addresses import address_plan, destinations, peer_policy
from dstack_vpn.wiring.assembly import Options, Outside, assemble
from dstack_vpn.wiring.audit_log import audit_log_of
from dstack_vpn.wiring.firewall import check_exit, closed_ports, protects, unprotected
from dstack_vpn.wiring.key_expiry import changer_of
from dstack_vpn.wiring.keys import identity_of, with_key
from dstack_vpn.wiring.names import serve_names
from dstack_vpn.wiring.ownership import taken
from dstack_vpn.wiring.policy_file import PolicyFileWatch, read_policy_file
from dstack_vpn.wiring.rpc import needed_machines
from dstack_vpn.wiring.running import published
from dstack_vpn.wiring.secrets import of_node, refuse_exposed
from dstack_vpn.wiring.transports import Relays
from dstack_vpn.wiring.view import NodeView

if TYPE_CHECKING:
    from dstack_vpn.wiring.transports import OwnRelay

TUNNEL_FIRST: Final = 1.0
"""The limit, in seconds, for which the API waits for the tunnel at the start."""
_DAY: Final = 86_400.0


def chain_source(settings: Settings) -> RpcPool:
    """Return the configured RPC endpoints."""
    return RpcPool(
        settings.rpc_url,
        settings.contract_address,
        proxies=settings.proxies,
        mark=settings.fwmark,
        chain_id=settings.chain_id,
        abi=None if settings.contract_abi == "auto" else by_name(settings.contract_abi),
        block_time=settings.network.block_time,
        poll_interval=settings.poll_interval,
        head_interval=settings.head_interval,
        early=settings.revoke_early,
        start_block=settings.start_block,
    )


def late_link(settings: Settings, claim: Claim) -> Link:
    """Return the interface's link; its backend is chosen when it is started."""
    wanted = cast("Literal['auto', 'kernel', 'userspace']", settings.backend)

    async def choose() -> Link:
        return make_link(await choose_backend(wanted, settings.interface), claim)

    return DeferredLink(choose)


def build(settings: Settings, link: Link, relays: Relays, source: ChainSource, firewall: Firewall) -> Daemon:
    """Return a daemon that is ready to run; raises `ConfigError`."""
    if settings.wireguard_private_key is None:
        raise ConfigError(["WIREGUARD_PRIVATE_KEY (or WIREGUARD_PRIVATE_KEY_FILE): is not set"])
    check_exit(settings)
    outside = Outside(
        clock=SystemClock(),
        source=source,
        link=link,
        store=SqliteStore(settings.state_dir / "registry.sqlite"),
        archive=FileArchive(settings.wireguard_config, settings.state_dir),
        audit_log=audit_log_of(settings),
        memory=EndpointFile(settings.state_dir / "endpoints.json"),
        usage_memory=UsageFile(settings.state_dir / "rpc-usage.json"),
        resolver=SystemResolver(destinations(settings), look_up_by(settings.fwmark)),
        make_relay=relays.to_peer,
        can_send=partial(can_send, mark=settings.fwmark),
        ring=None if settings.key_file is None else FileKeyRing(settings.key_file),
        changer=changer_of(settings),
        firewall=firewall,
        forward_resolver=SystemResolver(Destinations(address_plan(settings).networks)),
        echo=IcmpEcho(),
        machine_resolver=SystemResolver(),
        machines=partial(needed_machines, settings),
    )
    draw = random.SystemRandom().random()
    options = Options(
        private_key=settings.wireguard_private_key,
        key_on_disk=not settings.key_from_agent,
        identity=identity_of(settings),
        addresses=address_plan(settings),
        policy=peer_policy(settings),
        registry=(settings.chain_id, settings.contract_address),
        paced=settings.network.block_time is not None,
        confirmations=settings.grant_confirmations,
        quorum=settings.rpc_quorum,
        resync_interval=settings.sync_interval,
        head_interval=settings.head_interval or 0.0,
        revokes_early=settings.revoke_early is not None,
        rpc_daily_calls=settings.rpc_daily_calls,
        max_staleness=settings.max_staleness,
        stale_policy=settings.stale_policy,
        interface=settings.interface,
        listen_port=settings.listen_port,
        mtu=settings.mtu,
        transport=settings.transport,
        keep_interface=settings.keep_interface,
        key_schedule=Schedule(settings.key_max_age, draw) if settings.key_max_age else None,
        audit_keep_for=settings.audit_keep_days * _DAY,
        audit_keep_bytes=settings.audit_keep_mb * 1_000_000,
        protect=protects(settings),
        closed_ports=closed_ports(settings),
        forwards=settings.forward_to,
        accept_routes=settings.accept_routes,
        keeps_source=not settings.route_snat,
        policy_file=read_policy_file(settings.policy_file),
        mark=settings.fwmark,
        exit_nodes=settings.exit_node,
        exit_allow_lan=settings.exit_allow_lan,
        unprotected=unprotected(settings),
    )
    return assemble(outside, options)


async def run(settings: Settings) -> None:
    """Run the daemon until SIGTERM or SIGINT; a second signal ends it immediately.

    Raises `ConfigError`.
    """
    logs.configure(settings.log_level, settings.log_levels, settings.log_format)
    harden()
    refuse_exposed(of_node(settings))
    lock(settings.state_dir)
    settings = await with_key(settings)
    logs.warn_exposed(settings.exposed)
    logs.warn_unknown(settings.unknown)
    async with taken(settings) as claim:
        with published(settings):
            await _run(settings, claim)


async def _run(settings: Settings, claim: Claim) -> None:
    relays, source = Relays(settings), chain_source(settings)
    node = build(settings, late_link(settings, claim), relays, source, NftFirewall())
    stop = asyncio.Event()
    _end_on_signals(stop)
    gc.freeze()
    # The threads that write files share the interpreter, and may block it for 5 ms by default.
    sys.setswitchinterval(0.0005)
    own = None if settings.relay_listen is None else await relays.of_our_own(settings.relay_listen)
    await node.run(stop, _services(node, settings, source, own))
    node.keys.private.wipe()
    await node.audit_writer.close()
    if not settings.keep_interface:
        await node.exit_keeper.stop()
        await node.firewall_controller.stop()


def _end_on_signals(stop: asyncio.Event) -> None:
    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


def _services(
    node: Daemon, settings: Settings, source: RpcPool, own: "OwnRelay | None"
) -> dict[str, Callable[[], Awaitable[None]]]:
    """Return the optional services of the node by name."""
    services: dict[str, Callable[[], Awaitable[None]]] = {
        "audit": node.audit_writer.run,
        "memory": partial(_freeze, node),
    }
    view = NodeView(node, settings.state_dir, own, source.calls)
    if settings.policy_file is not None:
        policy_file = PolicyFileWatch(settings.policy_file, node.members)
        node.health.watch("policy file", lambda: policy_file.problem)
        services["policy file"] = policy_file.run
    if own is not None:
        node.health.watch("relay", lambda: own.problem)
        services["relay"] = own.run
    if settings.health_check_port:
        services["web"] = partial(_serve, node, view, settings)
    if settings.dns_port or settings.dns_listen:
        services["dns"] = partial(serve_names, settings, node)
    return services


async def _freeze(node: Daemon) -> None:
    """Exclude the first members from searches for cycles: 10,000 take 80 ms."""
    await node.reconciler.filled.wait()
    gc.freeze()
    await asyncio.Event().wait()  # a service does not end


async def _serve(node: Daemon, view: NodeView, settings: Settings) -> None:
    # Importing the web server takes 30 ms. Wait for the tunnel first, within a time limit.
    with suppress(TimeoutError):
        await asyncio.wait_for(node.reconciler.filled.wait(), TUNNEL_FIRST)
    from dstack_vpn.wiring.web import serve_node

    await serve_node(view, settings)
