"""The daemon: every long-lived task, named in one place, in one TaskGroup.

    chain       follow the registry over one endpoint after another       (loop, session)
    events      apply an event's deltas to the device                     (reconciler)
    repairs     compare the whole device, repair, read back               (reconciler)
    brake       confirm mass removals by a second reading                 (reconciler)
    device      set the device up again when it is gone                   (tunnel)
    link        keep addresses, routes and the up state                   (tunnel)
    names       resolve peers' host names                                 (resolving)
    paths       choose between UDP and relays                             (path_keeper)
    key         carry out a rotation of our own key                       (key_rotation)
    key age     request a new key before ours expires                     (key_expiry)
    clock       end expired access, request a repair at every resync      (here)
    health      publish changes of health                                 (health)
    store       store the registry                                        (persistence)
    answers     detect peers that do not answer                           (answers)
    roles       measure round trips to members of roles that are asked for  (roles)
    routes      survey the host and the gateways of networks              (route_keeper)
    moves       reach silent peers at their new endpoints                 (here)
    handshakes  initiate handshakes with the peers of a new device        (handshakes)
    config      write the wg-quick file, follow pins                      (persistence)
    firewall    keep the packet filter's rules                            (firewall)
    policy      apply the rules of the policies as they change            (firewall)
    edits       find other programs' edits of the packet filter           (firewall)
    exit        choose the exit, keep its kill switch                     (exit_keeper)
    denied      publish what the packet filter denied                     (denied)
    usage       record the use of RPC endpoints by day                    (rpc_usage)

A task that ends, or that fails with an error its docstring does not absorb, ends the daemon: a
restart by the supervisor is better than a partial failure. The data plane survives it
(docs/architecture.md).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from dstack_vpn.core.model import Address
from dstack_vpn.daemon.chain.loop import ChainLoop
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
from dstack_vpn.daemon.peers.exit_keeper import ExitKeeper
from dstack_vpn.daemon.peers.handshakes import HandshakeInitiator
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.daemon.peers.path_keeper import PathKeeper
from dstack_vpn.daemon.peers.reconciler import Reconciler
from dstack_vpn.daemon.peers.resolving import EndpointResolver
from dstack_vpn.daemon.peers.route_keeper import RouteKeeper
from dstack_vpn.errors import DeviceError, DstackVpnError, StoreError
from dstack_vpn.ports import Checkpoint

_log = structlog.get_logger(component="node")

TICK: Final = 1.0
"""Seconds between checks of the clock."""
EXPIRED: Final = 0.02
"""Seconds after its expiry at which access ends; it does not wait for the next tick."""
INSIST: Final = 0.2
"""Seconds after which a cancelled task that is still running is cancelled again."""
DRAIN: Final = 1.5
"""The limit, in seconds, of each step of an orderly shutdown."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running member of the network: its parts, and the tasks that they run."""

    registry: tuple[int, Address] | None
    """Chain id and contract that the settings name; a store of any other registry is not used."""
    keep_interface: bool
    """Leave the tunnel up after shutdown."""
    event_log: EventLog
    event_logger: EventLogger
    keys: OwnKeys
    members: Members
    chain: ChainLoop
    tunnel: Tunnel
    keeper: TunnelKeeper
    reconciler: Reconciler
    path_keeper: PathKeeper
    resolver: EndpointResolver
    persistence: Persistence
    handshakes: HandshakeInitiator
    peer_stats: PeerStatsCache
    denied: DeniedWatch
    answers: AnswerWatch
    roles: RoleWatch
    exit_keeper: ExitKeeper
    route_keeper: RouteKeeper
    rpc_usage: RpcUsage
    health: HealthWatch
    reporter: Reporter
    audit_writer: AuditWriter
    firewall_controller: FirewallController
    key_rotation: KeyRotation | None
    """Carries out key rotations; None if the key is not ours to change."""
    key_expiry: KeyExpiry | None
    """Rotates the key by its age; None if the settings do not ask for that."""

    async def run(self, stop: asyncio.Event, services: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        """Run until ``stop`` is set, with further named services; raises a failed task's error."""
        await self._restore()
        await self.exit_keeper.begin()
        tasks: dict[str, Callable[[], Awaitable[None]]] = {
            "chain": self.chain.run,
            "events": self.reconciler.run_events,
            "repairs": self.reconciler.run_repairs,
            "brake": self.reconciler.run_confirmations,
            "device": self.keeper.run,
            "link": self.keeper.watch,
            "names": self.resolver.run,
            "paths": self.path_keeper.run,
            "clock": self._tick,
            "health": self.health.run,
            "store": self.persistence.run_store,
            "config": self.persistence.run_config,
            "answers": self.answers.run,
            "roles": self.roles.run,
            "routes": self.route_keeper.run,
            "moves": self._watch_moves,
            "handshakes": self.handshakes.run,
            "firewall": self.firewall_controller.run,
            "policy": self.firewall_controller.run_policies,
            "forwarding": self.firewall_controller.run_forwarding,
            "edits": self.firewall_controller.watch,
            "exit": self.exit_keeper.run,
            "denied": self.denied.run,
            "usage": self.rpc_usage.run,
            **({} if self.key_rotation is None else {"key": self.key_rotation.run}),
            **({} if self.key_expiry is None else {"key age": self.key_expiry.run}),
            **services,
        }
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(_forever(name, task), name=name) for name, task in tasks.items()]
                try:
                    await stop.wait()
                    _log.info("node.stopping")
                finally:
                    await _end(running)  # also after a failure: the group cancels its tasks once
        finally:
            self.event_logger.flush()
        await self._drain()

    async def _restore(self) -> None:
        """Load the stored registry, so that the tunnel comes up even if no RPC endpoint replies."""
        checkpoint: Checkpoint | None = None
        try:
            checkpoint = await self.persistence.store.load()
        except StoreError as error:
            self.persistence.restored_with(str(error))
            _log.error("store.trouble", problem=str(error))
        if checkpoint is None:
            return
        known = checkpoint.identity
        if self.registry not in {None, (known.chain_id, known.contract)}:
            _log.warning("store.other_registry", chain_id=known.chain_id, contract=known.contract)
            return
        self.chain.restore(checkpoint.identity)
        self.tunnel.members.restore(checkpoint)
        _log.info(
            "node.restored",
            members=len(self.tunnel.members.membership.peers),
            block=checkpoint.finalized.number,
            tip=checkpoint.tip.number,
        )

    async def _drain(self) -> None:
        """Write what is left, then remove or leave the interface; each step has a time limit."""
        steps = (
            self.persistence.flush(),
            self.handshakes.store_endpoints(),
            self.rpc_usage.save(),
            self.tunnel.stop(keep=self.keep_interface),
            self.persistence.store.close(),
        )
        for step in steps:
            try:
                async with asyncio.timeout(DRAIN):
                    await step
            except (DstackVpnError, TimeoutError) as error:
                _log.error("node.drain_failed", problem=str(error) or "it took too long")
        _log.info("node.stopped", interface="kept" if self.keep_interface else "removed")

    async def _tick(self) -> None:
        """End access when it expires; request a repair at every resync."""
        members, clock = self.tunnel.members, self.tunnel.clock
        compared = clock.monotonic()
        while True:
            end = members.decisions.next_end
            due = TICK if end is None else end - members.now() + EXPIRED
            await asyncio.sleep(min(max(due, EXPIRED), TICK))
            members.expire()
            members.grow_old()
            if clock.monotonic() - compared >= self.chain.state.resync_interval:
                compared = clock.monotonic()
                self.reconciler.request_repair()

    async def _watch_moves(self) -> None:
        """Request a repair when it would move a peer to another endpoint."""
        while True:
            await asyncio.sleep(TICK)
            if await self.reconciler.may_move(self.peer_stats.peers):
                self.reconciler.request_repair()


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended.

    Once is not enough. A TaskGroup (Python 3.11 and 3.12) whose child fails at the moment of its
    cancellation reports the failure and drops the cancellation. A loop that absorbs such failures
    then goes on.
    """
    while unfinished := [task for task in tasks if not task.done()]:
        for task in unfinished:
            task.cancel()
        await asyncio.wait(unfinished, timeout=INSIST)


async def _forever(name: str, task: Callable[[], Awaitable[None]]) -> None:
    await task()
    raise DeviceError(f"the task '{name}' has ended unexpectedly")
