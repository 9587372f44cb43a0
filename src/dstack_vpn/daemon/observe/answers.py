"""Detection of peers that stop answering, and of peers that answer again.

`PeerStatsCache` reads the device at most once a second and for a bounded share of the time. So a
silent peer is detected within 15 s with up to a thousand peers, and later with more.
"""

import asyncio
import math
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.access.answers import Answers
from dstack_vpn.core.observe.events import PeerAnswered, PeersAnswering, PeerSilent
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.core.wireguard.wire import ANSWER_TO_DATA
from dstack_vpn.daemon.observe.peer_stats import PeerStatsCache
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.ports import Clock, Publish
from dstack_vpn.slices import slices

TICK: Final = 1.0
"""Seconds between checks."""
SLICE: Final = 500
"""The number of peers that are compared without yielding to the event loop."""
SINGLY: Final = 50
"""The limit of peers that are published one by one; more at once become one event with counts."""


@dataclass(slots=True)
class AnswerWatch:
    """Keeps `Answers` current, and publishes its changes."""

    peer_stats: PeerStatsCache
    members: Members
    clock: Clock
    publish: Publish
    answers: Answers
    _looked: float | None = field(default=None, init=False)
    _tried: dict[PublicKey, float] = field(default_factory=dict, init=False)
    """The time at which another endpoint of a silent peer was tried (monotonic seconds)."""

    def since(self, key: PublicKey) -> float | None:
        """Return the time since when a peer owes an answer (Unix seconds), or None."""
        at = self.answers.overdue.get(key)
        return None if at is None else self.clock.now() - (self.clock.monotonic() - at)

    async def run(self) -> None:
        """Check once a second until cancelled; absorbs device errors."""
        while True:
            await asyncio.sleep(TICK)
            await self.look()

    async def look(self) -> None:
        """Compare the newest reading of the device with the one before."""
        peers = await self.peer_stats.look()
        if self.peer_stats.at == self._looked:
            return
        self._looked = self.peer_stats.at
        now = self.clock.monotonic()
        silent: list[PublicKey] = []
        back: list[PublicKey] = []
        async for part in slices(list(peers.items()), SLICE):
            lost, found = self.answers.look(now, part)
            silent += lost
            back += found
        self.answers.keep(peers)
        self._publish(silent, back)
        self._try_other_endpoints(now)

    def _try_other_endpoints(self, now: float) -> None:
        """Try another endpoint of the silent peers that several tokens name, each in turn."""
        shared = self.answers.overdue.keys() & self.members.membership.others.keys()
        due = [key for key in shared if now - self._tried.get(key, -math.inf) >= ANSWER_TO_DATA]
        self._tried = {key: at for key, at in self._tried.items() if key in shared}
        self._tried |= dict.fromkeys(due, now)
        self.members.silent(due)

    def _publish(self, silent: list[PublicKey], back: list[PublicKey]) -> None:
        if len(silent) + len(back) > SINGLY:
            self.publish(PeersAnswering(len(silent), len(back)))
            return
        for key in silent:
            self.publish(PeerSilent(key, *self.members.named(key)))
        for key in back:
            self.publish(PeerAnswered(key, *self.members.named(key)))
