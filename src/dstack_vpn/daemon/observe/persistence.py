"""Persistence: the registry goes into the store, the peers into the wg-quick file.

Both are written in the background and never delay an event. A store that can't be written to is
only a warning: the tunnel depends on the chain, not on the disk.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Final

import structlog

from dstack_vpn.core.chain.commands import Advanced
from dstack_vpn.core.chain.contract import CONTRACT
from dstack_vpn.core.chain.events import LoggedEvent
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.limits.time_share import TimeShare
from dstack_vpn.core.model import Peer, TokenId
from dstack_vpn.core.policy.selection import GoodPolicy
from dstack_vpn.core.wireguard.config_file import ConfPeer, WgConfig, parse, peer_order, render, render_peer
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.chain.loop import ChainLoop
from dstack_vpn.daemon.chain.state import Began
from dstack_vpn.daemon.device.own_keys import OwnKeys
from dstack_vpn.daemon.device.tunnel import Tunnel
from dstack_vpn.errors import FormatError, StoreError
from dstack_vpn.ports import Checkpoint, ConfigArchive, Store

_log = structlog.get_logger(component="store")

TIP_INTERVAL: Final = 5.0
"""Seconds between writes of a tip without events."""
CONFIG_INTERVAL: Final = 1.0
"""Seconds between writes of the wg-quick file, and between checks for a pinned backup."""
WRITING: Final = TimeShare(parts=20)
"""The share of the time that is spent writing a large wg-quick file."""


@dataclass(slots=True)
class Persistence:
    """Keeps the files on disk current. Absorbs `StoreError`: health shows it."""

    store: Store
    archive: ConfigArchive
    chain: ChainLoop
    tunnel: Tunnel
    keys: OwnKeys
    changed: asyncio.Queue[Advanced | Began]
    _base: Registry | None = field(default=None, init=False)
    """The base that the store holds."""
    _confirmed: frozenset[TokenId] = field(default=frozenset(), init=False)
    """The tokens of that base that the store holds as confirmed by a quorum."""
    _policy: GoodPolicy | None = field(default=None, init=False)
    """The last good policy that the store holds, if it was written since the start."""
    _tip_written: float = field(default=0.0, init=False)
    _config: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _sections: dict[PublicKey, "_Section"] = field(default_factory=dict, init=False)
    """The sections of the wg-quick file that was written last."""
    _incomplete: bool = field(default=False, init=False)
    """Set during a write and after a failed one: the next write is then a full checkpoint."""
    _pin: str | None = field(default=None, init=False)
    _problems: dict[str, str] = field(default_factory=dict, init=False)
    """The problems of the store, the pin and the file; each is cleared by its own next success."""

    @property
    def problem(self) -> str | None:
        """The reasons that something can't be read or written, or None."""
        return "; ".join(self._problems.values()) or None

    def restored_with(self, problem: str) -> None:
        """Record that the store could not be read."""
        self._problems["store"] = problem

    def config_changed(self, _: object = None) -> None:
        """Request a write of the wg-quick file: the device's peers may have changed."""
        self._config.set()

    async def run_store(self) -> None:
        """Write the registry's steps as they arrive; those that wait are written together."""
        while True:
            news = [await self.changed.get()]
            while not self.changed.empty():
                news.append(self.changed.get_nowait())
            await self._attempt("store", self._record(news))

    async def run_config(self) -> None:
        """Write the wg-quick file when the peers have changed; apply and remove pins."""
        clock, next_write = self.tunnel.clock, 0.0
        while True:
            await asyncio.sleep(CONFIG_INTERVAL)
            await self._attempt("pin", self.read_pin())
            began = clock.monotonic()
            if self._config.is_set() and began >= next_write:
                self._config.clear()
                await self._attempt("config", self._write_config())
                now = clock.monotonic()
                next_write = now + WRITING.pause(now - began)

    async def read_pin(self) -> None:
        """Apply the operator's pin, if it has changed; raises `StoreError`."""
        text = await self.archive.pinned()
        if text == self._pin:
            return
        members = self.tunnel.members
        if text is None:
            self._pin = None
            members.pin(None)
            return
        try:
            peers = {entry.peer.public_key: entry.peer for entry in parse(text).peers}
        except FormatError as error:
            raise StoreError(f"the pinned configuration can't be read: {error}") from error
        self._pin = text
        members.pin(peers)

    async def flush(self) -> None:
        """Write the remaining changes at shutdown."""
        news = []
        while not self.changed.empty():
            news.append(self.changed.get_nowait())
        await self._attempt("store", self._record(news))
        if self._config.is_set():
            await self._attempt("config", self._write_config())

    # -- the store ---------------------------------------------------------------------------------

    async def _record(self, news: list[Advanced | Began]) -> None:
        follower, identity = self.tunnel.members.follower, self.chain.identity
        if follower.tip is None or follower.settled is None or identity is None:
            return
        now = self.tunnel.clock.monotonic()
        age = self.tunnel.members.staleness.age(now)
        synced = None if age is None else self.tunnel.clock.now() - age
        incomplete, self._incomplete = self._incomplete, True
        base, confirmed = (
            follower.timeline.base,
            self._confirmed_now() if Began() in news else self._confirmed,
        )
        if incomplete or (Began() in news and (base is not self._base or confirmed != self._confirmed)):
            nodes = tuple(base.nodes.values())
            events = follower.timeline.events
            await self.store.checkpoint(
                Checkpoint(
                    identity,
                    follower.settled,
                    nodes,
                    events,
                    follower.tip,
                    confirmed,
                    synced,
                    base.contract,
                )
            )
            self._base, self._confirmed = base, confirmed
        else:
            added, dropped = _net([step for step in news if isinstance(step, Advanced)])
            if added or dropped or now - self._tip_written >= TIP_INTERVAL:
                await self.store.append(follower.tip, added, dropped, synced)
                self._tip_written = now
        self._incomplete = False
        good = self.tunnel.members.policies.good
        if good is not None and good != self._policy:
            await self.store.keep_policy(good)
            self._policy = good

    def _confirmed_now(self) -> frozenset[TokenId]:
        quorum, base = self.tunnel.members.quorum, self.tunnel.members.follower.timeline.base
        if quorum is None:
            return frozenset()
        confirmed = {node.token_id for node in base.nodes.values() if quorum.confirms(node)}
        return frozenset(confirmed | ({CONTRACT} if quorum.contract.confirms(base.contract) else set()))

    # -- the wg-quick file -------------------------------------------------------------------------

    async def _write_config(self) -> None:
        """Write the interface as a wg-quick(8) file."""
        tunnel, members = self.tunnel, self.tunnel.members
        own = members.own_node
        addresses = frozenset[str]() if own is None else members.addresses.allowed_ips(own.token_id)
        key = self.keys.private if self.keys.on_disk else None
        bare = WgConfig(key, tunnel.listen_port, addresses, tunnel.mtu)
        peers, tokens = dict(members.membership.peers), dict(members.membership.tokens)
        # Thousands of peers take a while: a thread renders them, so that no event waits.
        try:
            text = await asyncio.to_thread(
                _text, bare, peers, tokens, members.follower.registry.nodes, self._sections
            )
        except FormatError as error:
            raise StoreError(f"the wg-quick file can't be written: {error}") from error
        await self.archive.write(text)

    async def _attempt(self, what: str, work: Awaitable[None]) -> None:
        try:
            await work
        except StoreError as error:
            if self._problems.get(what) != str(error):
                _log.error("store.trouble", problem=str(error))
            self._problems[what] = str(error)
        else:
            self._problems.pop(what, None)


@dataclass(frozen=True, slots=True)
class _Section:
    """A peer's section of the wg-quick file, and the objects that it was rendered from."""

    peer: Peer
    node: Node | None
    order: tuple[bool, int, bytes]
    text: str

    @classmethod
    def of(cls, peer: Peer, node: Node | None) -> "_Section":
        """Render the section without this process's relays: wg-quick could not reach them."""
        shown = peer
        if peer.endpoint is not None and peer.endpoint.is_loopback:
            shown = replace(peer, endpoint=None)
        entry = ConfPeer(shown)
        if node is not None and isinstance(node.node_id, str):
            entry = ConfPeer(shown, str(node.node_id), node.token_id)
        return cls(peer, node, peer_order(entry), render_peer(entry))


def _text(
    bare: WgConfig,
    peers: dict[PublicKey, Peer],
    tokens: dict[PublicKey, TokenId],
    nodes: Mapping[TokenId, Node],
    known: dict[PublicKey, _Section],
) -> str:
    """Return the file's text. Only the sections that are not ``known`` are rendered."""
    for key in known.keys() - peers.keys():
        del known[key]
    for key, peer in peers.items():
        node, last = nodes.get(tokens[key]), known.get(key)
        if last is None or last.peer is not peer or last.node is not node:
            known[key] = _Section.of(peer, node)
    sections = sorted(known.values(), key=attrgetter("order"))
    return "\n".join((render(bare), *(section.text for section in sections)))


def _net(steps: list[Advanced]) -> tuple[list[LoggedEvent], list[LoggedEvent]]:
    """Return the net added and dropped events of several steps; opposite changes cancel out."""
    added: dict[LoggedEvent, None] = {}
    dropped: dict[LoggedEvent, None] = {}
    for step in steps:
        for event in step.dropped:
            if event in added:
                del added[event]
            else:
                dropped[event] = None
        for event in step.added:
            if event in dropped:
                del dropped[event]
            else:
                added[event] = None
    return list(added), list(dropped)
