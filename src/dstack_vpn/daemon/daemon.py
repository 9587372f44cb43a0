"""The node: every long-lived task, named in one place, in one TaskGroup.

    chain       follow the registry over one endpoint after another       (follow, session)
    events      carry an event's deltas to the device                     (reconciler)
    repairs     compare the whole device, repair, read back               (reconciler)
    brake       have mass removals confirmed                              (reconciler)
    device      set the device up again when it has vanished              (tunnel)
    link        keep addresses, routes and the up state                   (tunnel)
    names       resolve peers' host names                                 (resolving)
    paths       choose between UDP and relays                             (path_keeper)
    key         carry out a change of our own key                         (rotation)
    key age     have the key changed before it is too old                 (renewal)
    clock       end access that expires, ask for a repair every audit     (here)
    health      publish changes of health                                 (watch)
    store       write the registry down                                   (recorder)
    answers     notice peers that do not answer                           (answers)
    moves       reach silent peers at their new endpoints                 (here)
    greeter     call the peers of a new device                            (greeter)
    config      write the wg-quick file, follow pins                      (recorder)

A task that ends, or fails with anything but what its docstring absorbs, ends the node: better restarted by
its supervisor than half alive. The data plane survives that (docs/architecture.md).
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
from dstack_vpn.daemon.observe.event_log import EventLog
from dstack_vpn.daemon.observe.event_logger import EventLogger
from dstack_vpn.daemon.observe.health import HealthWatch
from dstack_vpn.daemon.observe.peer_stats import PeerStatsCache
from dstack_vpn.daemon.observe.persistence import Persistence
from dstack_vpn.daemon.observe.reporter import Reporter
from dstack_vpn.daemon.peers.handshakes import HandshakeInitiator
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.daemon.peers.path_keeper import PathKeeper
from dstack_vpn.daemon.peers.reconciler import Reconciler
from dstack_vpn.daemon.peers.resolving import EndpointResolver
from dstack_vpn.errors import DeviceError, DstackVpnError, StoreError
from dstack_vpn.ports import Checkpoint

_log = structlog.get_logger(component="node")

TICK: Final = 1.0
"""Seconds between looks at the clock."""
EXPIRED: Final = 0.02
"""Seconds past its end at which access is ended: not a tick later."""
INSIST: Final = 0.2
"""Seconds after which a task that was cancelled, and goes on, is cancelled again."""
DRAIN: Final = 1.5
"""Seconds that each step of an orderly end may take."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running member of the network: its parts, and the tasks that they run."""

    registry: tuple[int, Address] | None
    """Chain id and contract that the settings name; a store of any other registry is not used."""
    keep_interface: bool
    """Leave the tunnel up at the end."""
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
    answers: AnswerWatch
    health: HealthWatch
    reporter: Reporter
    audit_writer: AuditWriter
    firewall_controller: FirewallController | None
    """The packet filter, if one is wanted."""
    key_rotation: KeyRotation | None
    """Carries key changes out, if the key is ours to change."""
    key_expiry: KeyExpiry | None
    """Has the key changed by its age, if the settings ask for that."""

    async def run(self, stop: asyncio.Event, services: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        """Run until ``stop`` is set, with further services by name; raises what a task failed with."""
        await self._restore()
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
            "moves": self._watch_moves,
            "greeter": self.handshakes.run,
            **({} if self.key_rotation is None else {"key": self.key_rotation.run}),
            **({} if self.key_expiry is None else {"key age": self.key_expiry.run}),
            **services,
        }
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(_forever(name, task), name=name) for name, task in tasks.items()]
                await stop.wait()
                _log.info("node.stopping")
                await _end(running)
        finally:
            self.event_logger.flush()
        await self._drain()

    async def _restore(self) -> None:
        """Bring back what was stored, so that the tunnel comes up even if no endpoint answers."""
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
        """Write what is left, take the interface away or let go of it; no step holds up another for long."""
        steps = (
            self.persistence.flush(),
            self.handshakes.last_look(),
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
        """End access when it expires; have the device compared every audit."""
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
        """Have the device compared when a peer is to be reached elsewhere after all."""
        while True:
            await asyncio.sleep(TICK)
            if self.reconciler.may_move(self.peer_stats.peers):
                self.reconciler.request_repair()


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended.

    Once is not enough: a TaskGroup (Python 3.11 and 3.12) whose child fails in the very moment that it is
    cancelled reports the failure and forgets the cancellation, and a loop that absorbs such failures goes on.
    """
    while unfinished := [task for task in tasks if not task.done()]:
        for task in unfinished:
            task.cancel()
        await asyncio.wait(unfinished, timeout=INSIST)


async def _forever(name: str, task: Callable[[], Awaitable[None]]) -> None:
    await task()
    raise DeviceError(f"the task '{name}' has ended unexpectedly")
