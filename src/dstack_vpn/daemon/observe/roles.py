"""The members of each role, and the measurement of the round trips to them.

Only peers with a tag that was asked for lately are measured, and gateways of networks that have
several (`watch`). A network whose roles are not asked
for sends nothing. A policy may deny ICMP to a peer: it is then not measured either, because its
node would record every echo as denied.
"""

import asyncio
import math
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import structlog

from dstack_vpn.core.access.answers import Answers
from dstack_vpn.core.access.control import AccessControl
from dstack_vpn.core.access.roles import MOST, Nearness, RoleIndex, Standing, members, ranked
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import TokenId
from dstack_vpn.core.paths.round_trips import INTERVAL, OFTEN, SWEEP, RoundTrips
from dstack_vpn.core.policy.selectors import Protocol
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.core.wireguard.wire import SESSION_LIFE
from dstack_vpn.daemon.observe.peer_stats import PeerStatsCache
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.ports import Clock, Echo

_log = structlog.get_logger(component="dns")
_chance: Final = random.SystemRandom().random

ASKED: Final = 60.0
"""Seconds after a question during which the members of a tag are measured."""
TICK: Final = 0.25
"""Seconds between measurements while a tag is asked for."""
WATCHED_TICK: Final = 0.1
"""The same while peers are watched."""
AT_ONCE: Final = 12
"""The limit of echoes in a tick: 48 a second."""
CHOICE: Final = 1.0
"""Seconds between choices of the peers to measure."""
SMALL: Final = 32
"""The size of a role whose members are all measured often."""
_LATE: Final = 5.0
"""Seconds after which a reply is ignored."""


@dataclass(slots=True)
class RoleWatch:
    """Implements `core.names.Roles`, and keeps `RoundTrips` current."""

    network: Members
    peer_stats: PeerStatsCache
    answers: Answers
    clock: Clock
    echo: Echo
    trips: RoundTrips = field(default_factory=RoundTrips)
    _index: RoleIndex = field(default_factory=RoleIndex, init=False)
    _asked: dict[str, float] = field(default_factory=dict, init=False)
    """The time of the last question for each tag (monotonic seconds)."""
    _news: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _watched: frozenset[PublicKey] = field(default=frozenset(), init=False)
    _uses: dict[str, frozenset[PublicKey]] = field(default_factory=dict, init=False)
    """The watched peers by what they are watched for."""
    _of_roles: Mapping[PublicKey, float] = field(default_factory=dict, init=False)
    """The members of roles to measure, each with its interval in seconds."""
    _wanted: Mapping[PublicKey, float] = field(default_factory=dict, init=False)
    _chosen: float = field(default=-math.inf, init=False)
    _sent: dict[int, tuple[PublicKey, str, float, float]] = field(default_factory=dict, init=False)
    """The sent echoes by nonce: peer, address, Unix time, monotonic time.

    A peer that could guess a nonce could reply early, and look near.
    """
    _problem: str | None = field(default=None, init=False)

    # -- names -------------------------------------------------------------------------------------

    @property
    def defined(self) -> bool:
        """See `Roles.defined`."""
        return any(self.network.rules.tag_names)

    def members(self, tag: str) -> Sequence[TokenId] | None:
        """See `Roles.members`. The members are measured from now on."""
        bit = self._bit(tag)
        if bit is None:
            return None
        if tag not in self._asked:
            self._chosen = -math.inf
        self._asked[tag] = self.clock.monotonic()
        self._news.set()
        access = self.network.access
        return [node.token_id for node in self._best(access, bit)]

    def round_trip(self, key: PublicKey) -> float | None:
        """Return the smoothed round trip to a peer in seconds; None if not measured lately."""
        return self.trips.of(key, self.clock.monotonic())

    # -- watched peers -----------------------------------------------------------------------------

    def watch(self, keys: frozenset[PublicKey], what: str) -> None:
        """Measure these peers often, so that a silent one is found within 3 s.

        Each use has a name (``what``), and its own peers.
        """
        if keys != self._uses.get(what, frozenset()):
            self._uses[what] = keys
            self._watched, self._chosen = frozenset().union(*self._uses.values()), -math.inf
            self._news.set()

    def is_measured(self, key: PublicKey) -> bool:
        """Return whether echoes are sent to a peer."""
        return key in self._wanted

    def standing(self, key: PublicKey) -> Standing:
        """Return the state of a peer."""
        alive = self.trips.is_alive(key, self.clock.monotonic())
        if alive is None and key in self.answers.overdue:
            alive = False
        if alive is None:
            peer = self.peer_stats.peers.get(key)
            if peer is None or self.clock.now() - peer.last_handshake > SESSION_LIFE:
                return Standing.UNJUDGED
        return Standing.SILENT if alive is False else Standing.ALIVE

    # -- roles -------------------------------------------------------------------------------------

    def _bit(self, tag: str) -> int | None:
        names = self.network.rules.tag_names
        return names.index(tag) if tag and tag in names else None

    def _best(self, access: AccessControl, bit: int) -> list[Node]:
        candidates = self._ranked(access, bit)
        now = self.network.now()
        return list(islice(members(access, candidates, bit, now), MOST))

    def _ranked(self, access: AccessControl, bit: int) -> list[tuple[Nearness, Node]]:
        return ranked(access, self._index.tokens(access.registry, bit), self._nearness)

    def _nearness(self, key: PublicKey) -> Nearness:
        return Nearness(self.standing(key), self.trips.settled(key))

    # -- measurements ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Measure the members of roles that were asked for lately, until cancelled."""
        try:
            while True:
                await self._news.wait()
                self._open()
                await self.tick()
                if not self._asked and not self._watched:
                    self._news.clear()
                    self.echo.close()
                await asyncio.sleep(WATCHED_TICK if self._watched else TICK)
        finally:
            self.echo.close()

    async def tick(self) -> None:
        """Send the echoes that are due, and count the replies that are overdue."""
        now = self.clock.monotonic()
        self._sent = {nonce: sent for nonce, sent in self._sent.items() if now - sent[3] < _LATE}
        self.trips.expire(now, self._received)
        if now - self._chosen >= CHOICE:
            self._chosen = now
            self._asked = {tag: at for tag, at in self._asked.items() if now - at < ASKED}
            await self._choose()
        self._wanted = {**self._of_roles, **self._watched_now()}
        for key in self.trips.due(self._wanted, now, AT_ONCE):
            self._send(key, now)

    def _open(self) -> None:
        problem = self.echo.start(self._replied)
        if problem != self._problem:
            self._problem = problem
            if problem is not None:
                _log.warning("roles.unmeasured", problem=problem)

    async def _choose(self) -> None:
        """Choose the peers to measure, each with its interval; yields between roles."""
        network, wanted = self.network, dict[PublicKey, float]()
        self.trips.keep(network.membership.peers)
        for tag in list(self._asked):
            if (bit := self._bit(tag)) is not None:
                access = network.access
                for place, (_, node) in enumerate(found := self._ranked(access, bit)):
                    key = node.public_key
                    if isinstance(key, PublicKey) and self._may_measure(access, key, node):
                        often = len(found) <= SMALL or place < MOST
                        wanted[key] = min(INTERVAL if often else SWEEP, wanted.get(key, SWEEP))
            await asyncio.sleep(0)
        self._of_roles = wanted

    def _watched_now(self) -> dict[PublicKey, float]:
        """Return the watched peers that may be measured, also those that have just joined."""
        found = {}
        for key in self._watched:
            peer = self.network.registered(key)
            if peer is not None and self._may_measure(self.network.access, key, peer):
                found[key] = OFTEN
        return found

    def _may_measure(self, access: AccessControl, key: PublicKey, node: Node) -> bool:
        # A plain client is not measured: echoes would keep a phone awake.
        is_peer = node.via is None and self.network.membership.key_of.get(node.token_id) == key
        return is_peer and permits_echo(access, node)

    def _send(self, key: PublicKey, now: float) -> None:
        token = self.network.membership.tokens.get(key)
        if token is None:
            return  # it has left since the choice
        address = self.network.addresses.texts_of(token)[0]
        nonce = secrets.randbits(64)
        self.trips.sent(key, self._wanted[key], now, _chance())
        self._sent[nonce] = key, address, self.echo.send(address, nonce), now

    def _replied(self, nonce: int, address: str, at: float) -> None:
        sent = self._sent.pop(nonce, None)
        if sent is None or sent[1] != address:
            return
        key, _, unix, monotonic = sent
        now = self.clock.monotonic()
        seconds = at - unix
        if not 0 < seconds <= now - monotonic:
            seconds = now - monotonic  # the wall clock was set in between
        self.trips.replied(key, seconds, now)

    def _received(self, key: PublicKey) -> int:
        peer = self.peer_stats.peers.get(key)
        return 0 if peer is None else peer.rx_bytes


def permits_echo(access: AccessControl, node: Node) -> bool:
    """Return whether the policies in force permit an ICMP echo to a member."""
    if access.policy is None:
        return True
    rights = access.policy.rights_with(access.subject(node)).outbound
    return any(right.protocol in {None, Protocol.ICMP} for right in rights)
