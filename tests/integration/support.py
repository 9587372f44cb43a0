"""A node from `wiring`, on real endpoints; only the WireGuard device is in memory.

The expected peers come from `views`.
"""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tests.memory_device import MemoryDevice, MemoryLink
from tests.memory_firewall import MemoryFirewall

from dstack_vpn.adapters.chain import RpcPool
from dstack_vpn.adapters.chain.jsonrpc import Request
from dstack_vpn.adapters.chain.session import RpcSession
from dstack_vpn.adapters.chain.transport import Outcome
from dstack_vpn.adapters.contracts import by_name
from dstack_vpn.config import load
from dstack_vpn.core.access.control import Decision
from dstack_vpn.core.chain.usage import UsageByEndpoint
from dstack_vpn.core.model import PeerState, TokenId
from dstack_vpn.core.observe.health import Health, evaluate
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.daemon.daemon import Daemon
from dstack_vpn.ports import ChainSession, Quarantine
from dstack_vpn.wiring import daemon as wiring
from dstack_vpn.wiring.transports import Relays

OWN = PrivateKey(bytes(range(1, 33)))
OWN_KEY = derive(OWN)
DEADLINE = 20.0
"""Seconds until a condition holds: far more than needed, even on a busy machine."""

Peers = Mapping[str, tuple[frozenset[str], str | None]]
"""Allowed IPs and endpoint by public key, all as text."""


async def eventually(condition: Callable[[], object], what: str, timeout: float = DEADLINE) -> None:
    """Wait until a condition holds; raise AssertionError after ``timeout`` seconds."""
    ends = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < ends, f"in vain: {what}"
        await asyncio.sleep(0.005)


# -- the node --------------------------------------------------------------------------------------


ECONOMY: Final = {"FOLLOW": "economy", "HEAD_INTERVAL": "1s"}


@dataclass
class Rig:
    """A node on the given endpoints, with its device, its sessions and their calls."""

    urls: list[str]
    contract: str
    state_dir: Path
    environment: dict[str, str] = field(default_factory=dict)
    resync_interval: float = 3600.0
    pace: float | None = None
    """Seconds between blocks, if the chain's block time is configured."""
    link: MemoryLink = field(default_factory=MemoryLink)
    firewall: MemoryFirewall = field(default_factory=MemoryFirewall)
    asked: list[tuple[str, Sequence[Any]]] = field(default_factory=list)
    """The RPC calls of all sessions, from the connection on: methods and parameters."""
    sessions: list[RpcSession] = field(default_factory=list)
    node: Daemon = field(init=False)

    def build(self) -> Daemon:
        """Return the node of `wiring.build`, with a shorter polling interval and jitter."""
        config = self.state_dir / "empty.toml"
        config.touch()
        environment = {
            "CONFIG_FILE": str(config),
            "NETWORK": "local",
            "RPC_URL": ",".join(self.urls),
            "CONTRACT_ADDRESS": self.contract,
            "WIREGUARD_PRIVATE_KEY": base64.b64encode(OWN.reveal()).decode(),
            "WIREGUARD_CONFIG": str(self.state_dir / "wg0.conf"),
            "STATE_DIR": str(self.state_dir),
            "HEALTH_CHECK_PORT": "0",
            **self.environment,
        }
        settings = replace(load(environment=environment), sync_interval=self.resync_interval)
        named = settings.contract_abi
        pool = RpcPool(
            self.urls,
            self.contract,
            chain_id=settings.chain_id,
            abi=None if named == "auto" else by_name(named),
            block_time=self.pace,
            poll_interval=0.05,
            head_interval=settings.head_interval,
            early=settings.revoke_early,
            draw=lambda: 0.1,
        )
        return wiring.build(settings, self.link, Relays(settings), _Watched(pool, self), self.firewall)

    @asynccontextmanager
    async def running(self, *, settled: bool = True) -> AsyncIterator["Rig"]:
        """Run the node; with ``settled``, yield after the first synchronization."""
        self.node, stop = self.build(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.node.run(stop, {}))
            try:
                if settled:
                    await eventually(self.follows, "the node follows the registry")
                yield self
            finally:
                stop.set()

    def follows(self) -> bool:
        """Return whether the node follows the chain and its device is up."""
        node = self.node
        return (
            node.members.synced is not None and node.chain.state.problem is None and node.tunnel.up.is_set()
        )

    # -- the node's state --------------------------------------------------------------------------

    @property
    def device(self) -> MemoryDevice:
        assert self.link.device is not None
        return self.link.device

    @property
    def peers(self) -> Peers:
        """Return the peers on the device."""
        found = {} if self.link.device is None else self.link.device.peers
        return {str(key): _plain(peer) for key, peer in found.items()}

    @property
    def keys(self) -> set[PublicKey]:
        """Return the public keys of the peers on the device."""
        return set() if self.link.device is None else set(self.link.device.peers)

    @property
    def tip(self) -> int:
        """Return the height of the node's newest block, or -1 without a block."""
        tip = self.node.chain.state.follower.tip
        return -1 if tip is None else tip.number

    def decide(self, subject: TokenId | str | PublicKey) -> Decision:
        """Return the decision of access control about a token, a name or a key."""
        return self.node.tunnel.members.access.decide(subject, time.time())  # noqa: TID251  # the test's clock

    def health(self) -> Health:
        return evaluate(self.node.reporter.collect(), time.time())  # noqa: TID251  # the test's own clock

    def component(self, name: str) -> str:
        """Return a component's status and reason in one line."""
        return next(f"{c.status}: {c.reason}" for c in self.health().components if c.name == name)

    @property
    def spent(self) -> list[str]:
        """Return the methods of all calls except polling for the latest block."""
        return [method for method, parameters in self.asked if "latest" not in parameters[:1]]

    async def quiet(self) -> None:
        """Wait until all fetches that an event caused have ended."""
        follower = self.node.chain.state.follower
        await eventually(lambda: not follower.walking and not _fetching(), "all fetches have ended")

    async def settle(self, want: Peers, what: str) -> None:
        """Wait until the device has exactly these peers; check that a repair changes nothing."""
        work, executor = self.node.reconciler.changes.work, self.node.reconciler.executor

        def settled() -> bool:
            return not work.is_set() and not executor.lock.locked() and agree(self.peers, want)

        await eventually(settled, f"{what}: {sorted(want)} on the device")
        applied = executor.applied  # counts steps of plans, without handshake initiations
        assert await self.node.reconciler.repair(), self.component("device")
        assert executor.applied == applied, f"{what}: there was something left to repair"
        assert agree(self.peers, want), what


@dataclass
class _Watched:
    """A pool whose sessions record their calls."""

    pool: RpcPool
    rig: Rig

    @asynccontextmanager
    async def session(self) -> AsyncIterator[RpcSession]:
        async with self.pool.session() as session:
            yield self._watch(session)

    @asynccontextmanager
    async def other(self, *, than: str) -> AsyncIterator[RpcSession]:
        async with self.pool.other(than=than) as session:
            yield self._watch(session)

    @asynccontextmanager
    async def to(self, name: str) -> AsyncIterator[RpcSession]:
        async with self.pool.to(name) as session:
            yield self._watch(session)

    def others(self, *, than: str) -> Sequence[str]:
        return self.pool.others(than=than)

    def quarantine(self, name: str, reason: str) -> None:
        self.pool.quarantine(name, reason)

    def quarantined(self) -> Mapping[str, Quarantine]:
        return self.pool.quarantined()

    def usage(self) -> UsageByEndpoint:
        return self.pool.usage()

    def _watch(self, session: ChainSession) -> RpcSession:
        assert isinstance(session, RpcSession)
        transport = session._caller.transport
        exchange = transport.exchange

        async def noted(requests: Sequence[Request], timeout: float) -> list[Outcome]:
            self.rig.asked += [(request.method, request.params) for request in requests]
            return await exchange(requests, timeout)

        setattr(transport, "exchange", noted)  # noqa: B010  # the attribute is a method to the type checker
        self.rig.sessions.append(session)
        return session


def _fetching() -> bool:
    return any(task.get_name() in ("chain fetch", "chain read") for task in asyncio.all_tasks())


def _plain(peer: PeerState) -> tuple[frozenset[str], str | None]:
    return peer.allowed_ips, None if peer.endpoint is None else str(peer.endpoint)


def agree(found: Peers, want: Peers) -> bool:
    """Return whether peers are as wanted. A wanted endpoint of None allows any endpoint."""
    return found.keys() == want.keys() and all(
        found[key][0] == prefixes and endpoint in (None, found[key][1])
        for key, (prefixes, endpoint) in want.items()
    )
